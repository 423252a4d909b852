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
# What makes the messages with the values of a task, and with its picture.
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
class Arrival:
    """
    A message, as it came.

    :ivar kind: type of the message, for example sensor_msgs/msg/Image.
    :ivar stamp_ns: when the camera took the picture that it belongs to, by its header.
    :ivar arrival_ns: when it was here and unpacked, by the same clock.
    :ivar size: width and height.
    :ivar values: (H, W) or (H, W, C) array of an image; of keypoints an array with named fields,
        one element for each joint; None for another cloud.
    """

    topic: str
    kind: str
    stamp_ns: int
    arrival_ns: int
    size: tuple[int, int]
    values: NDArray[Any] | None = field(default=None, repr=False, compare=False)

    @property
    def latency_ms(self) -> float:
        """Time from the picture to here."""
        return (self.arrival_ns - self.stamp_ns) / 1e6


class Recorder:
    """
    A node that keeps every message of the topics; it receives while `spin` runs.

    :param outputs: the topics of `RECORDED` to listen to; the camera's is always one.
    """

    def __init__(self, outputs: Collection[str] = tuple(RECORDED)) -> None:
        self._context = Context()
        self._context.init(args=[])
        self._node = Node('recorder', context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._arrivals: list[Arrival] = []
        self.outputs = tuple(outputs)
        kinds = {INPUT: Image} | {topic: RECORDED[topic].kind for topic in outputs}
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
    def arrivals(self) -> Sequence[Arrival]:
        """Return the messages since the last `take`."""
        return self._arrivals

    def take(self) -> list[Arrival]:
        """Return what has come, and begin anew."""
        taken, self._arrivals = self._arrivals, []
        return taken

    def has_camera(self) -> bool:
        """Tell whether somebody publishes pictures."""
        return bool(self._node.count_publishers(INPUT))

    def has_perception(self) -> bool:
        """Tell whether another node takes pictures and all outputs are offered."""
        return self._node.count_subscribers(INPUT) > 1 and all(
            self._node.count_publishers(topic) for topic in self.outputs
        )

    def close(self) -> None:
        """Leave the network."""
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
        self._arrivals.append(Arrival(topic, kind, stamp, arrival_ns, size, values))


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
