"""
Recordings (rosbag2) with the outputs of the node added.

Messages are made by the functions of the node, without a node and without DDS: the packages of
ROS messages and rclpy's serialization are needed, a running system is not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
import struct
from typing import Any, TYPE_CHECKING

import numpy as np
from rclpy.serialization import deserialize_message, serialize_message
from rosbags.highlevel import AnyReaderError
from rosbags.interfaces import (
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import ReaderError, StoragePlugin, Writer
from rosbags.typesys import get_typestore, Stores
from sensor_msgs.msg import CameraInfo, Image, LaserScan
from std_msgs.msg import Header

from sd_perception_ros.compressed_images import is_depth, rgb_from_message
from sd_perception_ros.data.formats.rosbag import DamagedRecordingError
from sd_perception_ros.geometry.pinhole import Transform
from sd_perception_ros.image_encodings import BitDepth
from sd_perception_ros.metric_depth.estimator import Measurement, MetricDepth, SENSORS
from sd_perception_ros.metric_depth.options import MountingOptions, ScaleOptions
from sd_perception_ros.ros.frame import CameraFrame
from sd_perception_ros.ros.input.pairing import CameraInfos
from sd_perception_ros.ros.input.reference import ReferenceMessages
from sd_perception_ros.ros.input.transforms import parent_from_optical
from sd_perception_ros.ros.messages.camera_info import camera_from_info
from sd_perception_ros.ros.node.diagnostics import NodeStatistics
from sd_perception_ros.ros.node.topics import camera_topic
from sd_perception_ros.ros.options import OutputOptions
from sd_perception_ros.ros.output.outputs import ModelOutput, Output
from sd_perception_ros.ros.output.publishers import Outputs
from sd_perception_ros.types import Camera, Prediction, UInt8

if TYPE_CHECKING:
    from sd_perception_ros.tasks.task import Task

INFO, DEPTH, SCAN = (f'sensor_msgs/msg/{name}' for name in ('CameraInfo', 'Image', 'LaserScan'))
# An info or a measurement may be recorded this much later than its image.
_WAIT_NS = 100_000_000
# What rosbags raises for damaged data, besides its own errors.
DAMAGED = (
    AnyReaderError,
    ReaderError,
    AssertionError,
    EOFError,
    IndexError,
    KeyError,
    RuntimeError,
    struct.error,
    ValueError,
)

Message = tuple[Any, int, bytes]  # connection, time of receipt in ns, CDR


@dataclass(frozen=True)
class RecordedImage:
    """
    An image message of a recording.

    :ivar frame: the decoded image with its intrinsics; None: it cannot be decoded.
    :ivar problem: why not.
    :ivar measurement: of the reference sensor, or the reason why there is none; None: no sensor.
    """

    topic: str
    received_ns: int
    frame: CameraFrame | None = None
    problem: str = ''
    measurement: Measurement | ValueError | None = None


@dataclass(frozen=True)
class Step:
    """
    What comes next in a recording.

    :ivar messages: as they were recorded; the last one is that of the image.
    :ivar image: None at the end.
    """

    messages: list[Message]
    image: RecordedImage | None


class _NoTransforms:
    """Recordings use the mounting parameters; tf2 is not read."""

    def lookup(self, target: str, header: Header) -> Transform | None:
        return Transform(np.eye(3), np.zeros(3)) if target == header.frame_id else None


@dataclass
class _Camera:
    infos: CameraInfos
    reference: ReferenceMessages | None
    bit_depth: BitDepth = field(default_factory=BitDepth)


class RecordingReader:
    """
    Read all messages of a recording in order, with the images of some topics decoded.

    :param reader: an open rosbags AnyReader.
    :param topics: image topics to decode.
    :param scale: source of metric depth.
    :param reference: topic of the reference sensor; empty: the only one of its kind.
    :raises ValueError: there is no such topic, or more than one.
    """

    def __init__(
        self, reader: Any, topics: Sequence[str], scale: ScaleOptions, reference: str = ''
    ) -> None:
        self._reader = reader
        self._cameras: dict[str, _Camera] = {}
        self._receivers: dict[str, list[tuple[type, Callable[[Any], None]]]] = {}
        sensor = ''
        if scale.source in SENSORS:
            sensor = self._sensor_topic(scale.source, topics, reference)
        self._wait_ns = _WAIT_NS + round(scale.max_offset_s * 1e9)
        for topic in topics:
            camera = _Camera(CameraInfos(), None)
            self._receive(info_topic(topic), CameraInfo, camera.infos.add)
            if sensor:
                infos = info_topic(sensor)
                camera.reference = ReferenceMessages(scale, _NoTransforms(), sensor, infos)
                kind = Image if scale.source == 'depth' else LaserScan
                self._receive(sensor, kind, camera.reference.add)
                self._receive(infos, CameraInfo, camera.reference.infos.add)
            self._cameras[topic] = camera

    def steps(self) -> Iterator[Step]:
        """
        Yield all messages.

        :raises DamagedRecordingError: all before was yielded.
        """
        waiting: deque[Message] = deque()
        passed: list[Message] = []
        messages = self._reader.messages()
        while True:
            try:
                message = next(messages, None)
            except DAMAGED as error:
                yield Step([*passed, *waiting], None)
                raise DamagedRecordingError(
                    f'it is damaged ({error}); try ros2 bag reindex'
                ) from error
            if message is not None:
                waiting.append(message)
                self._take(message)
            while waiting and (message is None or message[1] - waiting[0][1] > self._wait_ns):
                passed.append(waiting.popleft())
                if passed[-1][0].topic in self._cameras:
                    yield Step(passed, self._image(passed[-1]))
                    passed = []
            if message is None:
                yield Step(passed, None)
                return

    def _receive(self, topic: str, kind: type, callback: Callable[[Any], None]) -> None:
        self._receivers.setdefault(topic, []).append((kind, callback))

    def _take(self, message: Message) -> None:
        """Store infos and measurements."""
        connection, _, data = message
        for kind, callback in self._receivers.get(connection.topic, ()):
            if connection.msgtype == type_name(kind):
                callback(deserialize_message(bytes(data), kind))

    def _image(self, message: Message) -> RecordedImage:
        connection, received_ns, data = message
        topic, camera = connection.topic, self._cameras[connection.topic]
        try:
            msg = self._reader.deserialize(data, connection.msgtype)
            rgb = rgb_from_message(msg, bit_depth=camera.bit_depth)
        except DAMAGED as error:
            return RecordedImage(topic, received_ns, problem=str(error))
        header = Header(frame_id=msg.header.frame_id)
        header.stamp.sec, header.stamp.nanosec = msg.header.stamp.sec, msg.header.stamp.nanosec
        frame = CameraFrame(header, rgb, self._intrinsics(camera, topic, header, rgb))
        measurement: Measurement | ValueError | None = None
        if camera.reference is not None:
            try:
                measurement = camera.reference.find(frame)
            except ValueError as error:
                measurement = error
        return RecordedImage(topic, received_ns, frame, measurement=measurement)

    def _intrinsics(
        self, camera: _Camera, topic: str, header: Header, rgb: UInt8
    ) -> Camera | None:
        height, width = rgb.shape[:2]
        info = camera.infos.match(header, width, height)
        if info is None:
            return None
        is_rectified = topic.removesuffix('/compressed').split('/')[-1].startswith('image_rect')
        try:
            return camera_from_info(info, width, height, is_rectified)
        except ValueError:
            return None

    def _sensor_topic(self, source: str, topics: Sequence[str], reference: str) -> str:
        kind = DEPTH if source == 'depth' else SCAN
        found = sorted(
            {
                c.topic
                for c in self._reader.connections
                if c.msgtype == kind and c.msgcount and c.topic not in topics
                if kind == SCAN or self._holds_depth(c)
            }
        )
        if reference in found:
            return reference
        if len(found) != 1 or reference:
            raise ValueError(
                f'depth.scale.source {source}: expected {reference or "one topic"} of {kind}, '
                f'got {", ".join(found) or "none"}; choose one by --reference'
            )
        return str(found[0])

    def _holds_depth(self, connection: Any) -> bool:
        try:
            for _, _, data in self._reader.messages([connection]):
                return is_depth(self._reader.deserialize(data, connection.msgtype))
        except DAMAGED:
            pass
        return False


class _MetricInput:
    """The measurement of the current image, in place of subscriptions."""

    def __init__(self) -> None:
        self.current: Measurement | ValueError | None = None
        self.withheld = 0

    def measurement(self, frame: CameraFrame) -> Measurement | None:
        if isinstance(self.current, ValueError):
            raise self.current
        return self.current

    def transform_to(
        self, frame_id: str, frame: CameraFrame, mounting: MountingOptions
    ) -> Transform | None:
        return parent_from_optical(mounting) if frame.header.frame_id else None

    def report(self, metric: MetricDepth) -> None:
        self.withheld += bool(metric.problem)


class RecordedOutputs(Outputs):
    """
    The messages of one camera, with names of topics in place of publishers.

    :param camera: prefix of each topic.
    """

    def __init__(self, tasks: Mapping[str, Task], options: OutputOptions, camera: str) -> None:
        self._input = _MetricInput()
        no_node: Any = None
        metric_input: Any = self._input
        super().__init__(no_node, tasks, options, metric_input, NodeStatistics(), camera)

    @property
    def withheld(self) -> int:
        """Return the number of images without metric depth, although it has a source."""
        return self._input.withheld

    @property
    def types(self) -> dict[str, type]:
        """{topic: message type} of all outputs."""
        return {topic: output.msg_type for output, topic in self._publishers.items()}

    def model_messages(self) -> dict[str, Any]:
        """{topic: message} of the topics that depend only on the model."""
        return {
            topic: output.make(self._tasks[output.task])
            for output, topic in self._publishers.items()
            if isinstance(output, ModelOutput)
        }

    def of_image(
        self, image: RecordedImage, predictions: Mapping[str, Prediction]
    ) -> dict[str, Any]:
        """
        {topic: message} of an image.

        :param image: with a frame.
        """
        assert image.frame is not None
        self._input.current = image.measurement
        wanted = [output for output in self._publishers if isinstance(output, Output)]
        made = self.messages(image.frame, predictions, wanted)
        return {self._publishers[output]: message for output, message in made}

    def _publisher(self, output: Output | ModelOutput) -> Any:
        return camera_topic(self._camera, output.topic)


class RecordingWriter:
    """
    Write a recording (MCAP): the messages of another one as they are, and the node's outputs.

    :param folder: does not exist.
    :param reader: the open reader of the other recording.
    :param outputs: {image topic: outputs of its camera}; their topics are relative.
    :param namespace: of the outputs, such as '/perception'; empty: /depth/relative and so on.
    :raises ValueError: the other recording has a topic of an output.
    """

    def __init__(
        self, folder: Path, reader: Any, outputs: Mapping[str, RecordedOutputs], namespace: str
    ) -> None:
        self._outputs = outputs
        self._root = '/' + namespace.strip('/') + '/' if namespace.strip('/') else '/'
        names = {self._root + topic for made in outputs.values() for topic in made.types}
        both = sorted(names & {connection.topic for connection in reader.connections})
        if both:
            raise ValueError(
                f'it has {both[0]} already, which is the name of an output; give the outputs '
                'another namespace: --namespace /perception'
            )
        self._writer = Writer(folder, version=9, storage_plugin=StoragePlugin.MCAP)
        self._writer.open()
        self._copies: dict[tuple[int, int], Any] = {}
        self._added: dict[str, Any] = {}
        self._started = False
        store = get_typestore(Stores.ROS2_KILTED)
        same: dict[Any, Any] = {}  # a recording of several files has its topics in each of them
        for connection in reader.connections:
            about = (connection.topic, connection.msgtype, str(connection.ext))
            if about not in same:
                same[about] = self._copy_of(connection, reader.typestore)
            self._copies[_key(connection)] = same[about]
        for made in outputs.values():
            latched = made.model_messages()
            for topic, kind in made.types.items():
                qos = [_LATCHED] if topic in latched else []
                self._added[topic] = self._writer.add_connection(
                    self._root + topic,
                    type_name(kind),
                    typestore=store,
                    offered_qos_profiles=qos,
                )

    def write(self, step: Step, predictions: Mapping[str, Prediction] | None) -> None:
        """
        Write the messages of a step, and the outputs of its image.

        :param predictions: None: the image has no outputs.
        """
        for connection, received_ns, data in step.messages:
            if not self._started:
                self._start(received_ns)
            self._writer.write(self._copies[_key(connection)], received_ns, data)
        if step.image is not None and predictions is not None:
            messages = self._outputs[step.image.topic].of_image(step.image, predictions)
            for topic, message in messages.items():
                self._add(topic, message, step.image.received_ns)

    def close(self) -> None:
        """Complete the recording."""
        self._writer.close()

    def _start(self, received_ns: int) -> None:
        """Write the messages that depend only on the model before all others."""
        self._started = True
        for made in self._outputs.values():
            for topic, message in made.model_messages().items():
                self._add(topic, message, received_ns)

    def _add(self, topic: str, message: Any, received_ns: int) -> None:
        self._writer.write(self._added[topic], received_ns, serialize_message(message))

    def _copy_of(self, connection: Any, typestore: Any) -> Any:
        """Declare a topic as it was recorded."""
        about: dict[str, Any] = {'typestore': typestore}
        if connection.msgdef.data and connection.digest:
            about = {'msgdef': connection.msgdef.data, 'rihs01': connection.digest}
        return self._writer.add_connection(
            connection.topic,
            connection.msgtype,
            serialization_format=connection.ext.serialization_format,
            offered_qos_profiles=connection.ext.offered_qos_profiles,
            **about,
        )


def info_topic(topic: str) -> str:
    """Return the topic of the intrinsics beside an image topic."""
    base = topic.removesuffix('/compressed').removesuffix('/compressedDepth')
    return f'{base.rpartition("/")[0]}/camera_info'


def camera_names(topics: Sequence[str]) -> dict[str, str]:
    """
    Return the prefix of the outputs of each image topic.

    As in the node: none for a single camera, else its namespace: front/depth/relative for
    /front/image_raw; of two topics in one namespace, the name of the topic, too.
    """
    if len(topics) == 1:
        return {topics[0]: ''}
    spaces = {t: t.removesuffix('/compressed').strip('/').rpartition('/')[0] for t in topics}
    unique = len(set(spaces.values())) == len(topics) and all(spaces.values())
    return spaces if unique else {t: t.removesuffix('/compressed').strip('/') for t in topics}


def type_name(kind: type) -> str:
    """Return 'sensor_msgs/msg/Image' for the class."""
    return f'{kind.__module__.split(".")[0]}/msg/{kind.__name__}'


def _key(connection: Any) -> tuple[int, int]:
    return id(connection.owner), connection.id


_NEVER = QosTime(0, 0)
_LATCHED = Qos(
    QosHistory.KEEP_LAST,
    1,
    QosReliability.RELIABLE,
    QosDurability.TRANSIENT_LOCAL,
    _NEVER,
    _NEVER,
    QosLiveliness.AUTOMATIC,
    _NEVER,
    False,
)
