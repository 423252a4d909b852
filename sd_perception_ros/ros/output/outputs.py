"""The table of published topics, and the publishers of one camera."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TYPE_CHECKING

from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import CameraInfo, Image, LaserScan, PointCloud2
from visualization_msgs.msg import MarkerArray

from sd_perception_ros.metric_depth.estimator import (
    MetricDepth,
    MetricDepthEstimator,
    missing_tasks,
)
from sd_perception_ros.ros.frame import CameraFrame, stamp_ns
from sd_perception_ros.ros.input.metric import MetricInput
from sd_perception_ros.ros.messages.labels import (
    class_ids,
    LABEL_INFO,
    label_info,
    LABEL_INFO_LOG_TEXT,
    mask_ids,
)
from sd_perception_ros.ros.node.diagnostics import NodeStatistics
from sd_perception_ros.ros.node.qos import LATCHED, OUTPUT
from sd_perception_ros.ros.node.topics import camera_topic
from sd_perception_ros.ros.options import OutputOptions
from sd_perception_ros.ros.output import results
from sd_perception_ros.ros.output.results import FrameResult
from sd_perception_ros.types import Prediction

if TYPE_CHECKING:
    from sd_perception_ros.tasks.task import Task


def _always(tasks: Mapping[str, Task], options: OutputOptions) -> bool:
    return True


def _has_mask(tasks: Mapping[str, Task], options: OutputOptions) -> bool:
    """Return whether the model has classes to mask; ValueError for unknown class names."""
    names = getattr(tasks['segmentation'], 'class_names', ())
    return bool(mask_ids(names, options.segmentation))


def _has_scan(tasks: Mapping[str, Task], options: OutputOptions) -> bool:
    return bool(options.scan.frame_id)


def _needs_nothing(options: OutputOptions) -> tuple[str, ...]:
    return ()


def _needs_segmentation(options: OutputOptions) -> tuple[str, ...]:
    return ('segmentation',)


def _points_need(options: OutputOptions) -> tuple[str, ...]:
    return ('segmentation',) if options.depth.points.needs_classes else ()


@dataclass(frozen=True)
class Output:
    """
    A published topic.

    :ivar topic: relative name.
    :ivar kind: message type.
    :ivar task: task whose prediction it shows. For metric topics `depth` stands for the task that
        metric depth is computed from.
    :ivar make: (result of a frame, task) -> message; None: no message for this frame.
    :ivar offered: whether the topic is published with these tasks and options.
    :ivar metric: needs metric depth; published only if the scale has a source.
    :ivar uses_metric: uses metric depth if there is any, and is published without it, too.
    :ivar needs: other tasks that the messages need.
    """

    topic: str
    kind: type
    task: str
    make: Callable[[FrameResult, str], Any]
    offered: Callable[[Mapping[str, Task], OutputOptions], bool] = _always
    metric: bool = False
    uses_metric: bool = False
    needs: Callable[[OutputOptions], tuple[str, ...]] = _needs_nothing


OUTPUTS = (
    Output('depth/relative', Image, 'depth', results.relative_image),
    Output('depth/color', Image, 'depth', results.color_image),
    Output('depth/image_rect', Image, 'depth', results.metric_depth_image, metric=True),
    Output('depth/camera_info', CameraInfo, 'depth', results.depth_camera_info, metric=True),
    Output('depth/points', PointCloud2, 'depth', results.points, metric=True, needs=_points_need),
    Output(
        'depth/points_people',
        PointCloud2,
        'depth',
        results.people_points,
        metric=True,
        needs=_needs_segmentation,
    ),
    Output('scan', LaserScan, 'depth', results.scan, _has_scan, metric=True),
    Output('disparity/relative', Image, 'disparity', results.relative_image),
    Output('disparity/color', Image, 'disparity', results.color_image),
    Output('normals/image', Image, 'normals', results.normals_image),
    Output('normals/color', Image, 'normals', results.color_image),
    Output('segmentation/labels', Image, 'segmentation', results.labels_image),
    Output('segmentation/confidence', Image, 'segmentation', results.confidence_image),
    Output('segmentation/mask', Image, 'segmentation', results.mask_image, _has_mask),
    Output('segmentation/color', Image, 'segmentation', results.color_image),
    Output('foreground/alpha', Image, 'foreground', results.alpha_image),
    Output('matting/alpha', Image, 'matting', results.alpha_image),
    Output('matting/color', Image, 'matting', results.cutout_image),
    Output('human_pose/markers', MarkerArray, 'human_pose', results.markers, uses_metric=True),
    Output('human_pose/keypoints', PointCloud2, 'human_pose', results.keypoints, uses_metric=True),
    Output('human_pose/overlay', Image, 'human_pose', results.overlay_image),
)
MARKERS, SCAN = 'human_pose/markers', 'scan'


@dataclass(frozen=True)
class ModelOutput:
    """
    A topic with one latched message that depends on the model alone.

    :ivar log_text: info for the log; empty: none.
    """

    topic: str
    kind: type
    task: str
    make: Callable[[Any], Any]
    log_text: str = ''


MODEL_OUTPUTS = (
    ModelOutput(
        'segmentation/label_info',
        LABEL_INFO,
        'segmentation',
        lambda task: label_info(task.class_names),
        LABEL_INFO_LOG_TEXT,
    ),
)


class Outputs:
    """
    The publishers of one camera for one model.

    :param metric_input: the camera's reference sensor and transforms.
    :param camera: prefix of each topic, if there are several cameras.
    :param before: outputs of the replaced model. Publishers of topics that both models have are
        shared; the others stay until `before.close(keep=...)`.
    :ivar not_offered: topics of the model's tasks that are not published with these options and
        classes.
    :ivar missing_tasks: warning about tasks that metric depth needs and the model lacks; empty
        if none.
    :raises ValueError: an option that does not fit the model; then nothing has changed.
    """

    def __init__(
        self,
        node: LifecycleNode,
        tasks: Mapping[str, Task],
        options: OutputOptions,
        metric_input: MetricInput,
        stats: NodeStatistics,
        camera: str = '',
        before: Outputs | None = None,
    ) -> None:
        self._node, self._tasks, self._options = node, tasks, options
        self._metric_input, self._stats, self._camera = metric_input, stats, camera
        names = getattr(tasks.get('segmentation'), 'class_names', ())
        if 'segmentation' in tasks:
            excluded = options.depth.points.exclude_classes
            class_ids(names, excluded, 'depth.points.exclude_classes')
        depth = options.depth
        self._estimator = MetricDepthEstimator(
            depth.scale, tasks, names, depth.min_range_m, depth.max_range_m
        )
        self.missing_tasks = missing_tasks(depth.scale, tasks)
        self._people_shown: int = before._people_shown if before else 0
        possible = [
            output
            for output in (self._with_metric_task(output) for output in OUTPUTS)
            if output.task in tasks
        ]
        offered: list[Output | ModelOutput] = [
            output
            for output in possible
            if output.offered(tasks, options)
            if self._estimator.task or not output.metric
            if set(output.needs(options)) <= set(tasks)
        ]
        self.not_offered = [output.topic for output in possible if output not in offered]
        offered += [output for output in MODEL_OUTPUTS if output.task in tasks]
        existing = before._publishers if before else {}
        self._publishers: dict[Output | ModelOutput, Any] = {
            output: existing.get(output) or self._publisher(output) for output in offered
        }

    @property
    def topics(self) -> list[str]:
        """Full names of the topics, after remapping."""
        return [publisher.topic_name for publisher in self._publishers.values()]

    def activate(self) -> None:
        """Activate the publishers, and publish the latched messages."""
        self.reset()
        for output, publisher in self._publishers.items():
            publisher.on_activate(None)
            if isinstance(output, ModelOutput):
                if output.log_text:
                    self._node.get_logger().info(output.log_text, once=True)
                publisher.publish(output.make(self._tasks[output.task]))

    def reset(self) -> None:
        """Forget all previous frames, after a jump in time."""
        self._estimator.reset()

    def successor(self, tasks: Mapping[str, Task]) -> Outputs:
        """Make the outputs of another model, with the same options and state of activation."""
        successor = Outputs(
            self._node,
            tasks,
            self._options,
            self._metric_input,
            self._stats,
            self._camera,
            before=self,
        )
        if any(publisher.is_activated for publisher in self._publishers.values()):
            successor.activate()
        return successor

    def subscribed(self) -> list[Output]:
        """Return the outputs that have subscribers."""
        return [
            output
            for output, publisher in self._publishers.items()
            if isinstance(output, Output) and publisher.get_subscription_count() > 0
        ]

    def tasks_for(self, wanted: Iterable[Output], enabled: Collection[str]) -> set[str]:
        """
        Return the tasks to run for some outputs.

        :param enabled: enabled tasks; further tasks run only if an output in `wanted` shows them.
        """
        wanted = list(wanted)
        helpers = {task for output in wanted for task in output.needs(self._options)}
        if _want_metric_depth(wanted):
            helpers |= self._estimator.tasks
        return {output.task for output in wanted} | (helpers & set(self._tasks) & set(enabled))

    def publish(
        self, frame: CameraFrame, predictions: Mapping[str, Prediction], wanted: Collection[Output]
    ) -> int:
        """
        Publish the wanted outputs of a frame, and return the number of messages.

        :param predictions: {task: prediction} for the tasks of `tasks_for`.
        """
        sent = 0
        for output, message in self.messages(frame, predictions, wanted):
            self._publishers[output].publish(message)
            sent += 1
        return sent

    def messages(
        self, frame: CameraFrame, predictions: Mapping[str, Prediction], wanted: Collection[Output]
    ) -> Iterable[tuple[Output, Any]]:
        """Make the messages of the wanted outputs; parameters as of `publish`."""
        result = self._result(frame, predictions, wanted)
        for output in wanted:
            message = output.make(result, output.task)
            if message is None:
                continue
            if output.topic == MARKERS:
                poses: Any = predictions[output.task]
                self._people_shown = len(poses.people)
            yield output, message

    def close(self, keep: Outputs | None = None) -> None:
        """Remove the topics, except those that are shared with `keep`."""
        shared = keep._publishers if keep else {}
        for output, publisher in self._publishers.items():
            if output not in shared:
                self._node.destroy_lifecycle_publisher(publisher)
        self._publishers = {}

    def _with_metric_task(self, output: Output) -> Output:
        """Replace the task of a metric output by the one that metric depth is computed from."""
        return (
            replace(output, task=self._estimator.task or output.task) if output.metric else output
        )

    def _result(
        self, frame: CameraFrame, predictions: Mapping[str, Prediction], wanted: Collection[Output]
    ) -> FrameResult:
        """Compute metric depth and transforms once, for all outputs of a frame."""
        depth_m = transform = None
        if self._estimator.task and _want_metric_depth(wanted):
            depth_m = self._metric_depth(frame, predictions).depth_m
        if depth_m is not None and any(output.topic == SCAN for output in wanted):
            scan = self._options.scan
            transform = self._metric_input.transform_to(scan.frame_id, frame, scan.mounting)
        return FrameResult(
            frame,
            predictions,
            self._tasks,
            self._options,
            depth_m,
            transform,
            self._people_shown,
        )

    def _metric_depth(
        self, frame: CameraFrame, predictions: Mapping[str, Prediction]
    ) -> MetricDepth:
        try:
            measurement = self._metric_input.measurement(frame)
        except ValueError as error:
            metric = MetricDepth.withheld(str(error))
        else:
            metric = self._estimator.update(
                predictions, frame.camera, stamp_ns(frame.header) / 1e9, measurement
            )
        self._metric_input.report(metric)
        return metric

    def _publisher(self, output: Output | ModelOutput) -> Any:
        qos = LATCHED if isinstance(output, ModelOutput) else OUTPUT
        topic = camera_topic(self._camera, output.topic)
        return self._node.create_lifecycle_publisher(output.kind, topic, qos)


def _want_metric_depth(wanted: Iterable[Output]) -> bool:
    return any(output.metric or output.uses_metric for output in wanted)
