"""Inputs and outputs of all cameras of a node."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import functools
from typing import NamedTuple, TYPE_CHECKING

from rclpy.lifecycle import LifecycleNode
from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from sd_perception_ros.people.boxes import Box
from sd_perception_ros.people.options import TopDownOptions
from sd_perception_ros.ros.input.camera import CameraInput
from sd_perception_ros.ros.input.detections import DetectionInput
from sd_perception_ros.ros.input.metric import MetricInput
from sd_perception_ros.ros.input.transforms import Transforms
from sd_perception_ros.ros.node.diagnostics import NodeStatistics
from sd_perception_ros.ros.node.errors import format_error
from sd_perception_ros.ros.node.logs import PersistentWarning
from sd_perception_ros.ros.options import InputOptions, OutputOptions
from sd_perception_ros.ros.output.outputs import Output
from sd_perception_ros.ros.output.publishers import Outputs

if TYPE_CHECKING:
    from sd_perception_ros.tasks.task import Task


class ReceivedImage(NamedTuple):
    """
    An image message of a camera.

    :ivar camera: name of the camera; empty if there is only one.
    :ivar arrival_ns: arrival time, in nanoseconds of `time.monotonic_ns`.
    """

    camera: str
    msg: Image | CompressedImage
    arrival_ns: int


class CameraInputs:
    """
    The subscriptions of all cameras: images, camera_infos, and reference sensors.

    :ivar names: names of the cameras; one empty name if there is only one.
    :ivar metric: {camera: inputs of metric depth}.
    :raises ValueError: several cameras would share one mounting.
    """

    def __init__(
        self,
        inputs: InputOptions,
        outputs: OutputOptions,
        stats: NodeStatistics,
        needs_boxes: bool = False,
    ) -> None:
        self.names = tuple(inputs.cameras) or ('',)
        _check_mountings(self.names, outputs)
        self._options, self._stats = inputs, stats
        scale = outputs.depth.scale
        self.metric = {name: MetricInput(scale, stats, name) for name in self.names}
        self._cameras: dict[str, CameraInput] = {}
        self._top_down = outputs.human_pose.top_down if needs_boxes else None
        self._detections: dict[str, DetectionInput] = {}
        self._deliver: Callable[[ReceivedImage], None] = lambda received: None
        self._waits: Callable[[str], bool] = lambda camera: True
        self._boxes_warning: PersistentWarning | None = None

    def __getitem__(self, camera: str) -> CameraInput:
        """Return the open input of a camera."""
        return self._cameras[camera]

    @property
    def topics(self) -> list[str]:
        """Full names of the subscribed topics."""
        cameras = self._cameras.values()
        topics = [name for camera in cameras for name in (camera.topic, camera.info_topic)]
        topics += [detections.topic for detections in self._detections.values()]
        return topics + [topic for metric in self.metric.values() for topic in metric.topics]

    @property
    def image_topics(self) -> str:
        """Topics of the images, for diagnostics; empty while the inputs are closed."""
        return ', '.join(camera.topic for camera in self._cameras.values())

    def open(
        self,
        node: Node,
        deliver: Callable[[ReceivedImage], None],
        waits: Callable[[str], bool] = lambda camera: True,
    ) -> None:
        """
        Subscribe; the executor calls `deliver` for each image.

        :param waits: returns whether the images of a camera wait for its detections now.
        """
        self._deliver, self._waits = deliver, waits
        self._boxes_warning = PersistentWarning(node.get_logger())
        for name in self.names:
            self.metric[name].open(node)
            self._open_detections(node, name)
            self._open_camera(node, name)

    def set_options(self, node: Node, inputs: InputOptions, outputs: OutputOptions) -> None:
        """
        Use other options from the next frame on; `cameras` and the top-down options stay.

        :raises ValueError: several cameras would share one mounting; then nothing has changed.
        """
        _check_mountings(self.names, outputs)
        before, self._options = self._options, inputs
        for metric in self.metric.values():
            metric.set_options(outputs.depth.scale)
        for name, camera in list(self._cameras.items()):
            if inputs.image_transport == before.image_transport:
                camera.set_options(inputs)
            else:
                self._open_camera(node, name)
                camera.close()

    def set_top_down(self, node: Node, options: TopDownOptions | None) -> None:
        """Subscribe to detections as a new model needs; None: it needs none."""
        if options == self._top_down:
            return
        self._top_down = options
        for name in self._cameras:
            before = self._detections.pop(name, None)
            self._open_detections(node, name)
            if before is not None:
                before.close()

    def _open_camera(self, node: Node, name: str) -> None:
        self._cameras[name] = CameraInput(
            node, self._options, self._stats, functools.partial(self._receive, name), name
        )

    def _open_detections(self, node: Node, name: str) -> None:
        if self._top_down is not None:
            deliver = functools.partial(self._pass_on, name)
            self._detections[name] = DetectionInput(
                node, self._top_down, self._stats, deliver, name
            )

    def _receive(self, name: str, msg: Image | CompressedImage, arrival_ns: int) -> None:
        """Pass an image on, after its detections if it needs them."""
        detections = self._detections.get(name)
        if detections is not None and self._waits(name):
            detections.deliver_with_detections(msg, arrival_ns)
        else:
            self._pass_on(name, msg, arrival_ns)

    def _pass_on(self, name: str, msg: Image | CompressedImage, arrival_ns: int) -> None:
        self._deliver(ReceivedImage(name, msg, arrival_ns))

    def boxes(self, camera: str, header: Header) -> list[Box] | None:
        """Return the detected boxes of an image; None, and a warning, without detections."""
        try:
            if camera not in self._detections:
                raise ValueError('the subscription to detections has just begun')
            return self._detections[camera].boxes(header)
        except ValueError as error:
            self._stats.count('human_pose without detections')
            text = f'no human_pose: {format_error(error)}'
            self._stats.warn(text)
            if self._boxes_warning is not None:
                self._boxes_warning.report(text)
            return None

    def on_timer(self) -> None:
        """Adapt to the QoS of new publishers; report why a topic is silent."""
        for name, camera in self._cameras.items():
            camera.on_timer()
            self.metric[name].on_timer()
        for detections in self._detections.values():
            detections.on_timer()

    def reset(self) -> None:
        """Forget stamps, camera_infos and references, after a jump in time."""
        for name, camera in self._cameras.items():
            camera.reset()
            self.metric[name].reset()
        for detections in self._detections.values():
            detections.reset()

    def close(self) -> None:
        """Unsubscribe."""
        for name, camera in self._cameras.items():
            camera.close()
            self.metric[name].close()
        for detections in self._detections.values():
            detections.close()
        self._cameras, self._detections = {}, {}


class CameraOutputs:
    """The publishers of every camera for one model."""

    def __init__(self, outputs: Mapping[str, Outputs]) -> None:
        self._outputs = outputs

    @classmethod
    def create(
        cls,
        node: LifecycleNode,
        tasks: Mapping[str, Task],
        options: OutputOptions,
        metric_inputs: Mapping[str, MetricInput],
        stats: NodeStatistics,
    ) -> CameraOutputs:
        """Make the outputs of each camera; errors as of `Outputs`."""
        return cls(
            {
                name: Outputs(node, tasks, options, metric_input, stats, name)
                for name, metric_input in metric_inputs.items()
            }
        )

    def __getitem__(self, camera: str) -> Outputs:
        """Return the outputs of one camera."""
        return self._outputs[camera]

    @property
    def topics(self) -> list[str]:
        """Full names of the topics, after remapping."""
        return [topic for outputs in self._outputs.values() for topic in outputs.topics]

    @property
    def not_offered(self) -> list[str]:
        """Topics of the model's tasks that are not published with these options and classes."""
        return next(iter(self._outputs.values())).not_offered

    @property
    def missing_tasks(self) -> str:
        """Warning about tasks that metric depth needs and the model lacks; empty if none."""
        return next(iter(self._outputs.values())).missing_tasks

    def activate(self) -> None:
        """Start to publish."""
        self.reset()
        for outputs in self._outputs.values():
            outputs.activate()

    def reset(self) -> None:
        """Forget all previous frames, after a jump in time."""
        for outputs in self._outputs.values():
            outputs.reset()

    def subscribed(self) -> list[Output]:
        """Return the outputs of all cameras that have subscribers."""
        return [output for outputs in self._outputs.values() for output in outputs.subscribed()]

    def successor(self, tasks: Mapping[str, Task], options: OutputOptions) -> CameraOutputs:
        """Make the outputs of another model or other options; errors as of `Outputs`."""
        return CameraOutputs(
            {name: outputs.successor(tasks, options) for name, outputs in self._outputs.items()}
        )

    def close(self, keep: CameraOutputs | None = None) -> None:
        """Remove the topics, except those that are shared with `keep`."""
        for name, outputs in self._outputs.items():
            outputs.close(keep[name] if keep else None)


def _check_mountings(names: Sequence[str], outputs: OutputOptions) -> None:
    """Refuse options that describe the mounting of one camera if there are several."""
    if len(names) < 2:
        return
    option = 'depth.scale.source: ground' if outputs.depth.scale.source == 'ground' else ''
    if not Transforms.has_tf:
        option = 'depth.scale.source: scan' if outputs.depth.scale.source == 'scan' else option
        option = 'scan.frame_id without tf2' if outputs.scan.frame_id else option
    if option:
        raise ValueError(
            f'{option} has one mounting for {len(names)} cameras; run one node for each camera'
        )
