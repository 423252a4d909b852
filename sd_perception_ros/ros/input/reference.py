"""The sensors that know metres: their messages, and which of them belongs to a picture."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
import hashlib
import threading
from typing import Any

import numpy as np
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, Image, LaserScan
from std_msgs.msg import Header

from sd_perception_ros.image_encodings import depth_from_message
from sd_perception_ros.metric_depth.options import ScaleOptions
from sd_perception_ros.metric_depth.references import (
    from_depth,
    from_other_depth,
    from_scan,
    References,
)
from sd_perception_ros.ros.input.pairing import CameraInfos, stamp_ns
from sd_perception_ros.ros.input.transforms import body_in_optical, Frames
from sd_perception_ros.ros.messages.camera_info import camera_from_info
from sd_perception_ros.ros.node.qos import input_qos, resolve_reliability
from sd_perception_ros.ros.node.topics import named
from sd_perception_ros.types import Camera

DEPTH, DEPTH_INFO, SCAN = 'reference/depth', 'reference/camera_info', 'reference/scan'
# Messages kept while their pictures are on the way.
_KEPT = 10


@dataclass(frozen=True)
class Measurement:
    """
    What a sensor said about a picture.

    :ivar digest: of the data without its stamp: equal for a sensor that froze.
    """

    references: References
    digest: bytes


class ReferenceInput:
    """Subscribes to the sensor that the scale comes from."""

    def __init__(
        self, node: Node, options: ScaleOptions, frames: Frames, camera: str = ''
    ) -> None:
        self._node, self._options, self._frames = node, options, frames
        self._lock = threading.Lock()
        self._infos = CameraInfos()
        self._kept: OrderedDict[int, Any] = OrderedDict()
        kind, topic = (Image, DEPTH) if options.source == 'depth' else (LaserScan, SCAN)
        wanted = [(kind, topic, self._keep)]
        wanted += [(CameraInfo, DEPTH_INFO, self._infos.add)] if options.source == 'depth' else []
        self._topics = [
            (kind, node.resolve_topic_name(named(camera, topic)), use)
            for kind, topic, use in wanted
        ]
        self.topic = self._topics[0][1]
        self._offered = self._reliabilities()
        self._subscriptions = self._subscribe()

    def find(self, header: Header, camera: Camera | None, size: tuple[int, int]) -> Measurement:
        """
        Find what the sensor said at the time of a picture.

        :param size: height and width of the picture.
        :raises ValueError: nothing that could be believed; why is said.
        """
        msg = self._nearest(stamp_ns(header))
        if isinstance(msg, Image):
            return Measurement(self._from_depth(msg, header, camera, size), _digest(msg.data))
        return Measurement(self._from_scan(msg, header, camera), _digest(msg.ranges))

    def tend(self) -> None:
        """Follow publishers that came or changed."""
        offered = self._reliabilities()
        if offered != self._offered:
            self._offered = offered
            self._unsubscribe()
            self._subscriptions = self._subscribe()

    def reset(self) -> None:
        """Forget all messages, after a jump of time."""
        with self._lock:
            self._kept.clear()
        self._infos.clear()

    def close(self) -> None:
        """End the subscriptions."""
        self._unsubscribe()

    def _keep(self, msg: Image | LaserScan) -> None:
        with self._lock:
            self._kept[stamp_ns(msg.header)] = msg
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)

    def _nearest(self, stamp: int) -> Image | LaserScan:
        with self._lock:
            kept = list(self._kept.items())
        if not kept:
            raise ValueError(f'nothing has come on {self.topic}')
        nearest, msg = min(kept, key=lambda item: abs(item[0] - stamp))
        offset_s = abs(nearest - stamp) / 1e9
        if not offset_s <= self._options.max_offset_s:
            raise ValueError(
                f'the nearest message of {self.topic} is {offset_s:.3f} s away from the picture, '
                f'at most {self._options.max_offset_s:g} s may be; compare the clocks'
            )
        return msg

    def _from_depth(
        self, msg: Image, header: Header, camera: Camera | None, size: tuple[int, int]
    ) -> References:
        if msg.header.frame_id != header.frame_id:
            raise ValueError(
                f"{self.topic} is in frame '{msg.header.frame_id}' and the picture in "
                f"'{header.frame_id}'; register the depth to the picture (depth_image_proc)"
            )
        depth_m = depth_from_message(msg)
        info = self._infos.match(msg.header, msg.width, msg.height)
        if info is not None and camera is not None:
            own = camera_from_info(info, msg.width, msg.height, rectified=True)
            if own != camera:
                return from_other_depth(depth_m, own, camera)
        if depth_m.shape != size:
            raise ValueError(
                f'{self.topic} has {msg.width} x {msg.height} pixels and the picture '
                f'{size[1]} x {size[0]}; publish {self._topics[1][1]}, and the camera info of the '
                'picture, or depth of its size'
            )
        return from_depth(depth_m)

    def _from_scan(self, msg: LaserScan, header: Header, camera: Camera | None) -> References:
        if camera is None:
            raise ValueError('a scan needs the camera info of the picture')
        place = self._frames.lookup(header.frame_id, msg.header)
        if place is None:
            place = body_in_optical(self._options.scan_mounting)
        ranges_m = np.array(msg.ranges, np.float32)
        ranges_m[(ranges_m < msg.range_min) | (ranges_m > msg.range_max)] = np.nan
        angles = msg.angle_min + msg.angle_increment * np.arange(len(ranges_m))
        return from_scan(ranges_m, angles.astype(np.float32), place, camera)

    def _reliabilities(self) -> list[Any]:
        return [resolve_reliability(self._node, topic, 'auto') for _, topic, _ in self._topics]

    def _subscribe(self) -> list[Any]:
        return [
            self._node.create_subscription(kind, topic, use, input_qos(offered))
            for (kind, topic, use), offered in zip(self._topics, self._offered, strict=True)
        ]

    def _unsubscribe(self) -> None:
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)


def _digest(data: Any) -> bytes:
    return hashlib.blake2b(memoryview(data).cast('B'), digest_size=16).digest()
