"""What the node publishes: one line for each topic, and nothing for a topic nobody hears."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import CameraInfo, Image, LaserScan, PointCloud2
from visualization_msgs.msg import MarkerArray

from sd_perception_ros.ros.messages.labels import class_ids, LABEL_INFO, label_info, LABEL_NOTE
from sd_perception_ros.ros.metric_scale import helpers, Metres, metric_task, why_no_metres
from sd_perception_ros.ros.node.qos import LATCHED, OUTPUT
from sd_perception_ros.ros.node.topics import named
from sd_perception_ros.ros.options import OutputOptions
from sd_perception_ros.ros.output.results import always, Frame, has_mask, has_scan, Result, Shown
from sd_perception_ros.tasks.task import Task
from sd_perception_ros.types import Prediction


@dataclass(frozen=True)
class Output:
    """
    A topic, the task that feeds it and the way its message is made.

    :ivar offered: whether a model's task and the options give this topic.
    :ivar metric: made from metres: fed by the task that they are made from, and by those that
        help to find the scale; offered where there is a scale.
    :ivar lifted: better with metres, but not without messages where there are none.
    :ivar needs: other tasks that it cannot be made without.
    """

    topic: str
    kind: type
    task: str
    make: Callable[[Result], Any]
    offered: Callable[[Task, OutputOptions], bool] = always
    metric: bool = False
    lifted: bool = False
    needs: Callable[[OutputOptions], tuple[str, ...]] = lambda options: ()


def _for_points(options: OutputOptions) -> tuple[str, ...]:
    return ('segmentation',) if options.depth.points.needs_classes else ()


OUTPUTS = (
    Output('depth/relative', Image, 'depth', Result.values),
    Output('depth/color', Image, 'depth', Result.color),
    Output('depth/image_rect', Image, 'depth', Result.metric_image, metric=True),
    Output('depth/camera_info', CameraInfo, 'depth', Result.camera_info, metric=True),
    Output('depth/points', PointCloud2, 'depth', Result.points, metric=True, needs=_for_points),
    Output(
        'depth/points_people',
        PointCloud2,
        'depth',
        Result.people_points,
        metric=True,
        needs=lambda options: ('segmentation',),
    ),
    Output('scan', LaserScan, 'depth', Result.scan, has_scan, metric=True),
    Output('disparity/relative', Image, 'disparity', Result.values),
    Output('disparity/color', Image, 'disparity', Result.color),
    Output('normals/image', Image, 'normals', lambda r: r.image(r.prediction.values, '32FC3')),
    Output('normals/color', Image, 'normals', Result.color),
    Output(
        'segmentation/labels',
        Image,
        'segmentation',
        lambda r: r.image(r.prediction.labels, 'mono8'),
    ),
    Output(
        'segmentation/confidence',
        Image,
        'segmentation',
        lambda r: r.shares(r.prediction.confidence),
    ),
    Output('segmentation/mask', Image, 'segmentation', Result.mask, has_mask),
    Output('segmentation/color', Image, 'segmentation', Result.color),
    Output('foreground/alpha', Image, 'foreground', lambda r: r.shares(r.prediction.alpha)),
    Output('matting/alpha', Image, 'matting', lambda r: r.shares(r.prediction.alpha)),
    Output('matting/color', Image, 'matting', Result.cutout),
    Output('human_pose/markers', MarkerArray, 'human_pose', Result.markers, lifted=True),
    Output('human_pose/keypoints', PointCloud2, 'human_pose', Result.keypoints, lifted=True),
    Output('human_pose/overlay', Image, 'human_pose', Result.overlay),
)


@dataclass(frozen=True)
class Constant:
    """
    A topic whose one message depends on the model alone; late subscribers get it too.

    :ivar note: what the log should say about it.
    """

    topic: str
    kind: type
    task: str
    make: Callable[[Any], Any]
    note: str = ''


CONSTANTS = (
    Constant(
        'segmentation/label_info',
        LABEL_INFO,
        'segmentation',
        lambda task: label_info(task.class_names),
        LABEL_NOTE,
    ),
)


class Outputs:
    """
    The publishers of the topics that a model can fill.

    :ivar withheld: topics of the model's tasks that the options, or its classes, do not give.
    :ivar why_no_metres: empty where there is nothing to tell.
    :param metres: gives frames their scale.
    :param camera: the first part of each topic's name, where there are several cameras.
    :param before: the outputs of another model that this one replaces: topics that both have go
        on without a break. The others stay until `before.close(keep=...)`.
    :raises ValueError: an option that does not fit the model; then nothing has changed.
    """

    def __init__(
        self,
        node: LifecycleNode,
        tasks: Mapping[str, Task],
        options: OutputOptions,
        metres: Metres,
        camera: str = '',
        before: Outputs | None = None,
    ) -> None:
        self._node, self._tasks, self._options, self._metres = node, tasks, options, metres
        self._camera = camera
        self._metric_task = metric_task(options.depth.scale, tasks)
        self.why_no_metres = why_no_metres(options.depth.scale, tasks)
        if 'segmentation' in tasks:
            class_ids(
                tasks['segmentation'].class_names,
                options.depth.points.exclude_classes,
                'depth.points.exclude_classes',
            )
        self._shown = before._shown if before else Shown()
        kept = before._publishers if before else {}
        fed = [
            replace(output, task=self._metric_task or output.task) if output.metric else output
            for output in OUTPUTS
        ]
        of_model = [output for output in fed if output.task in tasks]
        offered: list[Output | Constant] = [
            output
            for output in of_model
            if output.offered(tasks[output.task], options)
            if self._metric_task or not output.metric
            if set(output.needs(options)) <= set(tasks)
        ]
        self.withheld = [output.topic for output in of_model if output not in offered]
        offered += [constant for constant in CONSTANTS if constant.task in tasks]
        self._publishers = {what: kept.get(what) or self._publisher(what) for what in offered}

    @property
    def topics(self) -> list[str]:
        """Full names of the topics, after remapping."""
        return [publisher.topic_name for publisher in self._publishers.values()]

    def activate(self) -> None:
        """Let messages out, and send those that depend on the model alone."""
        for what, publisher in self._publishers.items():
            publisher.on_activate(None)
            if isinstance(what, Constant):
                if what.note:
                    self._node.get_logger().info(what.note, once=True)
                publisher.publish(what.make(self._tasks[what.task]))

    def successor(self, tasks: Mapping[str, Task]) -> Outputs:
        """Make the outputs of another model, with the same options and as active as these."""
        made = Outputs(self._node, tasks, self._options, self._metres, self._camera, self)
        if any(publisher.is_activated for publisher in self._publishers.values()):
            made.activate()
        return made

    def subscribed(self) -> list[Output]:
        """List the outputs that somebody subscribes to."""
        return [
            what
            for what, publisher in self._publishers.items()
            if isinstance(what, Output) and publisher.get_subscription_count() > 0
        ]

    def tasks_for(self, wanted: Iterable[Output], enabled: Collection[str]) -> set[str]:
        """Name the tasks to run for some outputs."""
        wanted = list(wanted)
        also: set[str] = set()
        if self._metric_task and any(output.metric or output.lifted for output in wanted):
            also = {self._metric_task, *helpers(self._options.depth.scale)}
        also |= {task for output in wanted for task in output.needs(self._options)}
        return {output.task for output in wanted} | (also & set(self._tasks) & set(enabled))

    def publish(
        self, frame: Frame, predictions: Mapping[str, Prediction], wanted: Collection[Output]
    ) -> int:
        """
        Publish what is wanted and return how many messages that were.

        :param predictions: by task name; those of `tasks_for` these outputs.
        """
        results: dict[str, Result] = {}
        for name, prediction in predictions.items():
            task = self._tasks[name]
            results[name] = Result(
                frame, prediction, task, self._options, results, self._shown, self._metres
            )
        sent = 0
        for output in wanted:
            message = output.make(results[output.task])
            if message is not None:
                self._publishers[output].publish(message)
                sent += 1
        return sent

    def close(self, keep: Outputs | None = None) -> None:
        """Take the topics down, except those that other outputs go on with."""
        kept = keep._publishers if keep else {}
        for what, publisher in self._publishers.items():
            if what not in kept:
                self._node.destroy_lifecycle_publisher(publisher)
        self._publishers = {}

    def _publisher(self, what: Output | Constant) -> Any:
        qos = LATCHED if isinstance(what, Constant) else OUTPUT
        return self._node.create_lifecycle_publisher(
            what.kind, named(self._camera, what.topic), qos
        )
