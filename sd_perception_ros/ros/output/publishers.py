"""The publishers of one camera: which topics are wanted, and the messages of a frame."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any, TYPE_CHECKING

from rclpy.lifecycle import LifecycleNode

from sd_perception_ros.metric_depth.estimator import (
    MetricDepth,
    MetricDepthEstimator,
    missing_tasks,
)
from sd_perception_ros.ros.frame import CameraFrame, stamp_ns
from sd_perception_ros.ros.input.metric import MetricInput
from sd_perception_ros.ros.messages.labels import class_ids
from sd_perception_ros.ros.node.diagnostics import NodeStatistics
from sd_perception_ros.ros.node.qos import LATCHED, OUTPUT
from sd_perception_ros.ros.node.topics import camera_topic
from sd_perception_ros.ros.options import OutputOptions
from sd_perception_ros.ros.output.outputs import (
    MARKERS,
    MODEL_OUTPUTS,
    ModelOutput,
    Output,
    OUTPUTS,
    SCAN,
)
from sd_perception_ros.ros.output.results import FrameResult
from sd_perception_ros.types import Prediction

if TYPE_CHECKING:
    from sd_perception_ros.tasks.task import Task


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
        arguments = (depth.scale, tuple(tasks), tuple(names), depth.min_range_m, depth.max_range_m)
        self._estimator_arguments = arguments
        # A change of another option leaves the filter of the scale as it is.
        self._estimator: MetricDepthEstimator = (
            before._estimator
            if before and before._estimator_arguments == arguments
            else MetricDepthEstimator(*arguments)
        )
        self.missing_tasks = missing_tasks(depth.scale, tasks)
        self._people_before: int = before._people_before if before else 0
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
        for output, publisher in self._publishers.items():
            publisher.on_activate(None)
            if isinstance(output, ModelOutput):
                if output.log_text:
                    self._node.get_logger().info(output.log_text, once=True)
                publisher.publish(output.make(self._tasks[output.task]))

    def reset(self) -> None:
        """Forget all previous frames, after a jump in time."""
        self._estimator.reset()

    def successor(self, tasks: Mapping[str, Task], options: OutputOptions) -> Outputs:
        """Make the outputs of another model or other options, with the same activation."""
        successor = Outputs(
            self._node,
            tasks,
            options,
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

        :param enabled: enabled tasks; the others run only if an output in `wanted` publishes them.
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
        """Make the messages of the wanted outputs; same parameters as `publish`."""
        result = self._result(frame, predictions, wanted)
        for output in wanted:
            message = output.make(result, output.task)
            if message is None:
                continue
            if output.topic == MARKERS:
                poses: Any = predictions[output.task]
                self._people_before = len(poses.people)
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
            self._people_before,
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
        return self._node.create_lifecycle_publisher(output.msg_type, topic, qos)


def _want_metric_depth(wanted: Iterable[Output]) -> bool:
    return any(output.metric or output.uses_metric for output in wanted)
