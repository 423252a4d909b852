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
from sd_perception_ros.ros.input.camera import CameraInput
from sd_perception_ros.ros.input.detections import DetectionInput
from sd_perception_ros.ros.input.metric import MetricInput
from sd_perception_ros.ros.input.transforms import Transforms
from sd_perception_ros.ros.node.diagnostics import NodeStatistics
from sd_perception_ros.ros.node.errors import format_error
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
        for name in self.names:
            self.metric[name].open(node)
            receive = _with_name(name, deliver)
            if self._top_down is not None:
                detections = DetectionInput(node, self._top_down, self._stats, receive, name)
                self._detections[name] = detections
                receive = _waiting(detections, receive, functools.partial(waits, name))
            self._cameras[name] = CameraInput(node, self._options, self._stats, receive, name)

    def boxes(self, camera: str, header: Header) -> list[Box] | None:
        """Return the detected boxes of an image; None, and a warning, without detections."""
        try:
            if camera not in self._detections:
                raise ValueError(
                    'this model needs detections; configure the node again to subscribe to them'
                )
            return self._detections[camera].boxes(header)
        except ValueError as error:
            self._stats.count('human_pose without detections')
            self._stats.warn(f'no human_pose: {format_error(error)}')
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
        for outputs in self._outputs.values():
            outputs.activate()

    def reset(self) -> None:
        """Forget all previous frames, after a jump in time."""
        for outputs in self._outputs.values():
            outputs.reset()

    def subscribed(self) -> list[Output]:
        """Return the outputs of all cameras that have subscribers."""
        return [output for outputs in self._outputs.values() for output in outputs.subscribed()]

    def successor(self, tasks: Mapping[str, Task]) -> CameraOutputs:
        """Make the outputs of another model; errors as of `Outputs`."""
        return CameraOutputs(
            {name: outputs.successor(tasks) for name, outputs in self._outputs.items()}
        )

    def close(self, keep: CameraOutputs | None = None) -> None:
        """Remove the topics, except those that are shared with `keep`."""
        for name, outputs in self._outputs.items():
            outputs.close(keep[name] if keep else None)


def _with_name(
    camera: str, deliver: Callable[[ReceivedImage], None]
) -> Callable[[Image | CompressedImage, int], None]:
    return lambda msg, arrival_ns: deliver(ReceivedImage(camera, msg, arrival_ns))


def _waiting(
    detections: DetectionInput,
    receive: Callable[[Image | CompressedImage, int], None],
    waits: Callable[[], bool],
) -> Callable[[Image | CompressedImage, int], None]:
    def received(msg: Image | CompressedImage, arrival_ns: int) -> None:
        (detections.deliver_with_detections if waits() else receive)(msg, arrival_ns)

    return received


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
