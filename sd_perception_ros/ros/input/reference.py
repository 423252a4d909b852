"""Reference sensors for metric depth: subscriptions, and matching of messages with images."""

from __future__ import annotations

from collections.abc import Callable
import hashlib
from typing import Any, Protocol

import numpy as np
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy
from sensor_msgs.msg import CameraInfo, Image, LaserScan
from std_msgs.msg import Header

from sd_perception_ros.compressed_images import depth_from_message
from sd_perception_ros.geometry.pinhole import Transform
from sd_perception_ros.metric_depth.estimator import Measurement
from sd_perception_ros.metric_depth.options import ScaleOptions
from sd_perception_ros.metric_depth.plausibility import (
    check_depth,
    check_scan,
    ScanGeometry,
)
from sd_perception_ros.metric_depth.references import (
    from_depth,
    from_depth_camera,
    from_scan,
    References,
)
from sd_perception_ros.ros.frame import CameraFrame, stamp_ns
from sd_perception_ros.ros.input.pairing import CameraInfos, StampedMessages
from sd_perception_ros.ros.input.transforms import optical_from_body, Transforms
from sd_perception_ros.ros.messages.camera_info import camera_from_info
from sd_perception_ros.ros.node.qos import resolve_qos
from sd_perception_ros.ros.node.topics import camera_topic

DEPTH, DEPTH_INFO, SCAN = 'reference/depth', 'reference/camera_info', 'reference/scan'


class Lookup(Protocol):
    """Where transforms come from: `Transforms`, or none in a recording."""

    def lookup(self, target: str, header: Header) -> Transform | None:
        """Return the transform target_from_source; None: use the mounting parameters."""


class ReferenceMessages:
    """
    Messages of the sensor of `depth.scale.source`, matched with images.

    :param topic: full name of the sensor's topic.
    :param info_topic: full name of the topic of a depth camera's intrinsics.
    """

    def __init__(
        self, options: ScaleOptions, transforms: Lookup, topic: str, info_topic: str
    ) -> None:
        self._options, self._transforms = options, transforms
        self.topic, self._info_topic = topic, info_topic
        self.infos = CameraInfos()
        self._messages: StampedMessages[Image | LaserScan] = StampedMessages(
            topic, 'depth.scale.max_offset_s', options.max_offset_s
        )

    def find(self, frame: CameraFrame) -> Measurement:
        """
        Find the sensor's measurement at the time of a frame.

        :raises ValueError: no message fits the frame.
        """
        msg = self._messages.nearest(stamp_ns(frame.header))
        if isinstance(msg, Image):
            references, digest = self._from_depth(msg, frame), _digest(msg.data)
        else:
            references, digest = self._from_scan(msg, frame), _digest(msg.ranges)
        return Measurement(references, digest, frame.rgb, self.topic)

    def add(self, msg: Image | LaserScan) -> None:
        """Store a message of the sensor."""
        self._messages.add(stamp_ns(msg.header), msg)

    def _from_depth(self, msg: Image, frame: CameraFrame) -> References:
        header, camera, size = frame.header, frame.camera, frame.rgb.shape[:2]
        if msg.header.frame_id != header.frame_id:
            raise ValueError(
                f"{self.topic} is in frame '{msg.header.frame_id}' and the image in "
                f"'{header.frame_id}'; register the depth to the image (depth_image_proc)"
            )
        depth_m = depth_from_message(msg)
        references = from_depth(depth_m)
        check_depth(references, depth_m, msg.encoding == '32FC1', self.topic)
        info = self.infos.match(msg.header, msg.width, msg.height)
        if info is not None and camera is not None:
            depth_camera = camera_from_info(info, msg.width, msg.height, rectified=True)
            if depth_camera != camera:
                return from_depth_camera(references, depth_camera, camera)
        if depth_m.shape != size:
            raise ValueError(
                f'{self.topic} has {msg.width} x {msg.height} pixels and the image '
                f'{size[1]} x {size[0]}; publish {self._info_topic} and the camera_info of the '
                'image, or depth of the same size'
            )
        return references

    def _from_scan(self, msg: LaserScan, frame: CameraFrame) -> References:
        if frame.camera is None:
            raise ValueError("source 'scan' needs the camera_info of the image")
        optical_from_scan = self._transforms.lookup(frame.header.frame_id, msg.header)
        if optical_from_scan is None:
            optical_from_scan = optical_from_body(self._options.scan_mounting)
        ranges_m = np.array(msg.ranges, np.float32)
        fields = (getattr(msg, name) for name in ScanGeometry._fields)
        check_scan(ranges_m, ScanGeometry(*fields), self.topic)
        ranges_m[(ranges_m < msg.range_min) | (ranges_m > msg.range_max)] = np.nan
        angles = msg.angle_min + msg.angle_increment * np.arange(len(ranges_m))
        return from_scan(ranges_m, angles.astype(np.float32), optical_from_scan, frame.camera)


class ReferenceInput(ReferenceMessages):
    """Subscribe to the depth camera or lidar of `depth.scale.source`, and match its messages."""

    def __init__(
        self, node: Node, options: ScaleOptions, transforms: Transforms, camera: str = ''
    ) -> None:
        def name(topic: str) -> str:
            return str(node.resolve_topic_name(camera_topic(camera, topic)))

        is_depth = options.source == 'depth'
        super().__init__(options, transforms, name(DEPTH if is_depth else SCAN), name(DEPTH_INFO))
        self._node = node
        self._topics: list[tuple[type, str, Callable[[Any], None]]] = (
            [(Image, self.topic, self.add), (CameraInfo, self._info_topic, self.infos.add)]
            if is_depth
            else [(LaserScan, self.topic, self.add)]
        )
        self._offered = self._fitting_qos()
        self._subscriptions = self._subscribe()

    def on_timer(self) -> None:
        """Adapt to the QoS of new publishers."""
        offered = self._fitting_qos()
        if offered != self._offered:
            self._offered = offered
            self._unsubscribe()
            self._subscriptions = self._subscribe()

    def reset(self) -> None:
        """Forget all messages, after a jump in time; a latched info comes only once."""
        self._messages.clear()
        if self._offered[-1].durability != DurabilityPolicy.TRANSIENT_LOCAL:
            self.infos.clear()

    def close(self) -> None:
        """End the subscriptions."""
        self._unsubscribe()

    def _fitting_qos(self) -> list[Any]:
        return [resolve_qos(self._node, topic) for _, topic, _ in self._topics]

    def _subscribe(self) -> list[Any]:
        return [
            self._node.create_subscription(kind, topic, callback, offered)
            for (kind, topic, callback), offered in zip(self._topics, self._offered, strict=True)
        ]

    def _unsubscribe(self) -> None:
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)


def _digest(data: Any) -> bytes:
    return hashlib.blake2b(memoryview(data).cast('B'), digest_size=16).digest()
