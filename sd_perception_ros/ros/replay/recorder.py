"""A node that records the camera's images and the outputs of the perception node."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
import functools
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import ReliabilityPolicy
from sensor_msgs.msg import Image, PointCloud2, PointField

from sd_perception_ros.ros.frame import stamp_ns
from sd_perception_ros.ros.node.qos import input_qos
from sd_perception_ros.ros.output import results
from sd_perception_ros.ros.output.outputs import OUTPUTS

INPUT = 'image_raw'
# Functions of `OUTPUTS` whose messages have a task's values, or a colour image of them.
_VALUES = (
    results.relative_image,
    results.normals_image,
    results.labels_image,
    results.alpha_image,
    results.keypoints,
)
_PICTURES = (results.color_image, results.alpha_image, results.overlay_image)
RECORDED = {
    output.topic: output
    for output in OUTPUTS
    if output.make in (*_VALUES, *_PICTURES, results.points)
}
# Task: topic.
VALUE_TOPICS = {output.task: output.topic for output in OUTPUTS if output.make in _VALUES}
PICTURE_TOPICS = {output.task: output.topic for output in OUTPUTS if output.make in _PICTURES}
_NUMPY = {
    PointField.FLOAT32: '<f4',
    PointField.INT32: '<i4',
    PointField.UINT32: '<u4',
    PointField.UINT16: '<u2',
    PointField.UINT8: '<u1',
}


def topics_of(tasks: Collection[str]) -> tuple[str, ...]:
    """Return the recorded topics of some tasks."""
    return tuple(topic for topic, output in RECORDED.items() if output.task in tasks)


@dataclass(frozen=True)
class RecordedMessage:
    """
    A received message.

    :ivar kind: type of the message, for example sensor_msgs/msg/Image.
    :ivar stamp_ns: stamp of its header: when the image was taken.
    :ivar arrival_ns: time after deserialization, by the same clock.
    :ivar size: width and height.
    :ivar values: (H, W) or (H, W, C) array of an image; structured array of keypoints, one
        element for each joint; None for other clouds.
    """

    topic: str
    kind: str
    stamp_ns: int
    arrival_ns: int
    size: tuple[int, int]
    values: NDArray[Any] | None = field(default=None, repr=False, compare=False)

    @property
    def latency_ms(self) -> float:
        """Time from the stamp to the arrival."""
        return (self.arrival_ns - self.stamp_ns) / 1e6


class Recorder:
    """
    A node that stores all messages of some topics; it receives while `spin` runs.

    :param outputs: topics of `RECORDED`; the camera's images are always recorded.
    """

    def __init__(self, outputs: Collection[str] = tuple(RECORDED)) -> None:
        self._context = Context()
        self._context.init(args=[])
        self._node = Node('recorder', context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._arrivals: list[RecordedMessage] = []
        self.outputs = tuple(outputs)
        kinds = {INPUT: Image} | {topic: RECORDED[topic].msg_type for topic in outputs}
        for topic, kind in kinds.items():
            receive = functools.partial(self._receive, topic)
            qos = input_qos(ReliabilityPolicy.RELIABLE)
            self._node.create_subscription(kind, topic, receive, qos)

    def spin(self, duration_s: float) -> None:
        """Receive for some time."""
        deadline = time.monotonic() + duration_s
        while (left_s := deadline - time.monotonic()) > 0:
            self._executor.spin_once(timeout_sec=left_s)

    @property
    def arrivals(self) -> Sequence[RecordedMessage]:
        """Messages since the last `take`."""
        return self._arrivals

    def take(self) -> list[RecordedMessage]:
        """Return the messages since the last call, and remove them."""
        taken, self._arrivals = self._arrivals, []
        return taken

    def has_camera(self) -> bool:
        """Return whether the image topic has a publisher."""
        return bool(self._node.count_publishers(INPUT))

    def has_perception(self) -> bool:
        """Return whether images have another subscriber, and all outputs a publisher."""
        return self._node.count_subscribers(INPUT) > 1 and all(
            self._node.count_publishers(topic) for topic in self.outputs
        )

    def close(self) -> None:
        """Destroy the node."""
        self._executor.shutdown()
        self._node.destroy_node()
        self._context.try_shutdown()

    def _receive(self, topic: str, msg: Image | PointCloud2) -> None:
        arrival_ns = time.time_ns()
        kind = f'{type(msg).__module__.split(".")[0]}/msg/{type(msg).__name__}'
        values = None
        if isinstance(msg, Image):
            values = image_values(msg)
        elif any(field.name == 'joint' for field in msg.fields):
            values = cloud_values(msg)
        stamp = stamp_ns(msg.header)
        size = (msg.width, msg.height)
        self._arrivals.append(RecordedMessage(topic, kind, stamp, arrival_ns, size, values))


def image_values(msg: Image) -> NDArray[Any]:
    """
    View the pixels of a tightly packed message, of 8 bits or float32, as an array.

    :returns: (H, W) of one channel or (H, W, C); it shares the message's memory.
    """
    dtype = np.dtype(np.float32 if msg.encoding.startswith('32F') else np.uint8)
    channels = msg.step // (msg.width * dtype.itemsize)
    values: NDArray[Any] = np.frombuffer(msg.data, dtype)
    values = values.reshape(msg.height, msg.width, channels)
    return values[..., 0] if channels == 1 else values


def cloud_values(msg: PointCloud2) -> NDArray[Any]:
    """View the points of a little-endian cloud as an array with the cloud's named fields."""
    dtype = np.dtype(
        {
            'names': [field.name for field in msg.fields],
            'formats': [_NUMPY[field.datatype] for field in msg.fields],
            'offsets': [field.offset for field in msg.fields],
            'itemsize': msg.point_step,
        }
    )
    points: NDArray[Any] = np.frombuffer(msg.data, dtype)
    return points
