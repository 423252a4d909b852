"""Several cameras in one node: what each one receives, and what is published of its frames."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from rclpy.lifecycle import LifecycleNode
from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, Image

from sd_perception_ros.ros.input.camera import CameraInput
from sd_perception_ros.ros.input.transforms import Frames
from sd_perception_ros.ros.metric_scale import Metres
from sd_perception_ros.ros.node.diagnostics import Statistics
from sd_perception_ros.ros.options import InputOptions, OutputOptions
from sd_perception_ros.ros.output.outputs import Output, Outputs
from sd_perception_ros.tasks.task import Task


class Arrival(NamedTuple):
    """
    A picture of a camera.

    :ivar camera: its name; empty where there is one camera.
    :ivar arrival_ns: when it came, in nanoseconds of `time.monotonic_ns`.
    """

    camera: str
    msg: Image | CompressedImage
    arrival_ns: int


class Streams:
    """
    What comes from the cameras: pictures, camera infos, and references of metres.

    :ivar names: of the cameras; one empty name where there is one camera.
    :raises ValueError: metres of several cameras that would share one mounting.
    """

    def __init__(self, inputs: InputOptions, outputs: OutputOptions, stats: Statistics) -> None:
        self.names = tuple(inputs.cameras) or ('',)
        _check_mountings(self.names, outputs)
        self._options, self._stats = inputs, stats
        self.metres = {name: Metres(outputs.depth.scale, stats, name) for name in self.names}
        self._inputs: dict[str, CameraInput] = {}

    def __getitem__(self, camera: str) -> CameraInput:
        """Return the open input of a camera."""
        return self._inputs[camera]

    @property
    def topics(self) -> list[str]:
        """Full names of the topics that are listened to."""
        heard = [name for one in self._inputs.values() for name in (one.topic, one.info_topic)]
        return heard + [topic for metres in self.metres.values() for topic in metres.topics]

    @property
    def hardware(self) -> str:
        """Topics of the pictures, for diagnostics; empty while nothing is received."""
        return ', '.join(one.topic for one in self._inputs.values())

    def open(self, node: Node, deliver: Callable[[Arrival], None]) -> None:
        """Begin to receive; the executor calls `deliver`."""
        for name in self.names:
            self.metres[name].open(node)
            self._inputs[name] = CameraInput(
                node, self._options, self._stats, _addressed(name, deliver), name
            )

    def tend(self) -> None:
        """Follow publishers that came or changed, and say why a topic is silent."""
        for one in (*self._inputs.values(), *self._open_metres()):
            one.tend()

    def reset(self) -> None:
        """Forget stamps, camera infos and scales, after a jump of time."""
        for one in (*self._inputs.values(), *self._open_metres()):
            one.reset()

    def close(self) -> None:
        """Stop receiving."""
        for one in (*self._inputs.values(), *self.metres.values()):
            one.close()
        self._inputs = {}

    def _open_metres(self) -> list[Metres]:
        return list(self.metres.values()) if self._inputs else []


class CameraOutputs:
    """The publishers of every camera, each with the topics that a model can fill."""

    def __init__(self, outputs: Mapping[str, Outputs]) -> None:
        self._outputs = outputs

    @classmethod
    def of(
        cls,
        node: LifecycleNode,
        tasks: Mapping[str, Task],
        options: OutputOptions,
        metres: Mapping[str, Metres],
    ) -> CameraOutputs:
        """Make them for each camera, by name; raises what `Outputs` raises."""
        return cls({name: Outputs(node, tasks, options, metres[name], name) for name in metres})

    def __getitem__(self, camera: str) -> Outputs:
        """Return those of one camera."""
        return self._outputs[camera]

    @property
    def topics(self) -> list[str]:
        """Full names of the topics, after remapping."""
        return [topic for one in self._outputs.values() for topic in one.topics]

    @property
    def withheld(self) -> list[str]:
        """Topics of the model's tasks that the options, or its classes, do not give."""
        return next(iter(self._outputs.values())).withheld

    @property
    def why_no_metres(self) -> str:
        """Say what the model lacks for the metres that the options ask for; empty for nothing."""
        return next(iter(self._outputs.values())).why_no_metres

    def activate(self) -> None:
        """Let messages out."""
        for one in self._outputs.values():
            one.activate()

    def subscribed(self) -> list[Output]:
        """List the outputs that somebody subscribes to, of any camera."""
        return [output for one in self._outputs.values() for output in one.subscribed()]

    def successor(self, tasks: Mapping[str, Task]) -> CameraOutputs:
        """Make the outputs of another model; raises what `Outputs` raises."""
        return CameraOutputs({name: one.successor(tasks) for name, one in self._outputs.items()})

    def close(self, keep: CameraOutputs | None = None) -> None:
        """Take the topics down, except those that other outputs go on with."""
        for name, one in self._outputs.items():
            one.close(keep[name] if keep else None)


def _addressed(
    camera: str, deliver: Callable[[Arrival], None]
) -> Callable[[Image | CompressedImage, int], None]:
    return lambda msg, arrival_ns: deliver(Arrival(camera, msg, arrival_ns))


def _check_mountings(names: Sequence[str], outputs: OutputOptions) -> None:
    """Refuse what would give every camera the place of one: wrong metres."""
    if len(names) < 2:
        return
    what = 'depth.scale.source: ground' if outputs.depth.scale.source == 'ground' else ''
    if not Frames.has_tf:
        what = 'depth.scale.source: scan' if outputs.depth.scale.source == 'scan' else what
        what = 'scan.frame_id without tf2' if outputs.scan.frame_id else what
    if what:
        raise ValueError(
            f'{what} has one mounting for {len(names)} cameras; run one node for each camera'
        )
