"""The camera side of the perception node: subscriptions that fit the publisher, and hints."""

from __future__ import annotations

from collections.abc import Callable
import difflib
import time

from rclpy.node import Node
from rclpy.qos import qos_policy_name_from_kind
from rclpy.subscription import Subscription
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

try:
    from rclpy.event_handler import QoSRequestedIncompatibleQoSInfo, SubscriptionEventCallbacks
except ImportError:  # ROS 2 Humble
    from rclpy.qos_event import QoSRequestedIncompatibleQoSInfo, SubscriptionEventCallbacks

from sd_perception_ros.geometry.undistortion import Lens
from sd_perception_ros.ros.frame import stamp_ns
from sd_perception_ros.ros.input.pairing import CameraInfos, FramePolicy
from sd_perception_ros.ros.messages.camera_info import (
    camera_from_info,
    is_distorted,
    lens_from_info,
)
from sd_perception_ros.ros.node.diagnostics import Statistics
from sd_perception_ros.ros.node.qos import input_qos, resolve_reliability
from sd_perception_ros.ros.node.topics import camera_info_topic, image_topic
from sd_perception_ros.ros.options import InputOptions
from sd_perception_ros.types import Camera, UInt8

# How long a topic may stay silent before the log says so.
_SILENCE_S = 5.0
_PICTURES = {'sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage'}


class CameraInput:
    """
    Subscribes to one camera and hands over the frames that are worth processing.

    :param deliver: takes an image message and when it arrived, in nanoseconds of
        `time.monotonic_ns`; called by the executor.
    :param camera: its name, where there are several.
    """

    def __init__(
        self,
        node: Node,
        options: InputOptions,
        stats: Statistics,
        deliver: Callable[[Image | CompressedImage, int], None],
        camera: str = '',
    ) -> None:
        self._node, self._options, self._stats, self._deliver = node, options, stats, deliver
        self._log = node.get_logger()
        self.topic = image_topic(node, options.image_transport, camera)
        self.info_topic = camera_info_topic(node, self.topic, camera)
        self._rectified = (
            self.topic.removesuffix('/compressed').split('/')[-1].startswith('image_rect')
        )
        self._infos = CameraInfos()
        self._lens: Lens | None = None
        self._policy = FramePolicy(options.max_frame_age_s, options.drop_duplicate_stamps)
        self._heard = time.monotonic()
        self._mismatch = ''
        self._offered = resolve_reliability(node, self.topic, options.qos_reliability)
        self._images = self._subscribe_images()
        self._info_offered = resolve_reliability(node, self.info_topic, options.qos_reliability)
        self._info_subscription = self._subscribe_infos()

    def info_for(self, header: Header, rgb: UInt8) -> CameraInfo | None:
        """Return the camera_info of an image; None where none came, which is reported."""
        height, width = rgb.shape[:2]
        info = self._infos.match(header, width, height)
        if info is None:
            self._stats.warn(
                f"no camera_info of frame '{header.frame_id}' and {width} x {height} pixels came "
                f'on {self.info_topic}: this image gives no points'
            )
        return info

    def camera_of(self, info: CameraInfo, rgb: UInt8) -> Camera | None:
        """
        Return the intrinsics of an image, after rectification.

        :param info: its camera_info.
        :returns: None where the info cannot be used, which is reported.
        """
        height, width = rgb.shape[:2]
        try:
            straight = self._rectified or (self._options.rectify and any(info.p))
            camera = camera_from_info(info, width, height, straight)
        except ValueError as error:
            text = f'{error}; images are processed, but give no points ({self.info_topic})'
            self._stats.error(text)
            self._log.error(text, throttle_duration_sec=10.0)
            return None
        if is_distorted(info) and not self._rectified and not self._options.rectify:
            self._log.warning(
                f'{self.topic} is distorted, and points are computed without correction; '
                'subscribe to image_rect or set rectify: true for exact points',
                once=True,
            )
        return camera

    def rectified(self, info: CameraInfo | None, rgb: UInt8) -> UInt8:
        """
        Remove the distortion of an image; `camera_of` then gives the pinhole camera.

        :param info: its camera_info.
        :raises ValueError: no camera_info came, or it cannot be used.
        """
        height, width = rgb.shape[:2]
        if info is None:
            raise ValueError(f'rectify: true needs a camera_info, none came on {self.info_topic}')
        lens = lens_from_info(info, width, height)
        # Keep the lens while its numbers stay the same: its maps are made once.
        self._lens = self._lens if self._lens == lens else lens
        return self._lens.rectify(rgb)

    def too_old(self, header: Header) -> bool:
        """Return whether a frame has become too old while it waited; that is counted."""
        return self._dropped(self._policy.too_old(stamp_ns(header), self._now_ns()))

    def on_timer(self) -> None:
        """Adapt to publishers that came or changed their QoS; report why a topic is silent."""
        wanted = self._options.qos_reliability
        offered = resolve_reliability(self._node, self.topic, wanted)
        if offered != self._offered:
            self._offered = offered
            self._node.destroy_subscription(self._images)
            self._images = self._subscribe_images()
            self._log.info(f'{self.topic} is published {offered.name}: subscribed alike')
        offered = resolve_reliability(self._node, self.info_topic, wanted)
        if offered != self._info_offered:
            self._info_offered = offered
            self._node.destroy_subscription(self._info_subscription)
            self._info_subscription = self._subscribe_infos()
        if time.monotonic() - self._heard > _SILENCE_S:
            self._explain_silence()

    def reset(self) -> None:
        """Forget stamps and camera infos, after a jump of time."""
        self._infos.clear()
        self._policy.reset()

    def close(self) -> None:
        """End the subscriptions."""
        self._node.destroy_subscription(self._images)
        self._node.destroy_subscription(self._info_subscription)

    def _subscribe_images(self) -> Subscription:
        kind = Image if self._options.image_transport == 'raw' else CompressedImage
        events = SubscriptionEventCallbacks(incompatible_qos=self._incompatible)
        return self._node.create_subscription(
            kind, self.topic, self._receive, input_qos(self._offered), event_callbacks=events
        )

    def _subscribe_infos(self) -> Subscription:
        return self._node.create_subscription(
            CameraInfo, self.info_topic, self._infos.add, input_qos(self._info_offered)
        )

    def _receive(self, msg: Image | CompressedImage) -> None:
        arrival_ns = time.monotonic_ns()
        self._heard = time.monotonic()
        self._mismatch = ''
        self._stats.count('received')
        reason = self._policy.reason_to_drop(stamp_ns(msg.header), self._now_ns())
        if not self._dropped(reason):
            self._deliver(msg, arrival_ns)

    def _dropped(self, reason: str) -> bool:
        if reason:
            self._stats.count(f'dropped: {reason}')
            self._stats.warn(f'frames are dropped: {reason}')
        return bool(reason)

    def _now_ns(self) -> int:
        return int(self._node.get_clock().now().nanoseconds)

    def _incompatible(self, event: QoSRequestedIncompatibleQoSInfo) -> None:
        policy = qos_policy_name_from_kind(event.last_policy_kind)
        if self._options.qos_reliability == 'auto' and policy == 'RELIABILITY':
            return  # on_timer subscribes again with the QoS that the publisher offers
        self._mismatch = (
            f'a publisher of {self.topic} offers another {policy} than this node asks for '
            f'(qos_reliability: {self._options.qos_reliability}), so nothing arrives from it; set '
            'qos_reliability: auto'
        )
        self._log.warning(self._mismatch)

    def _explain_silence(self) -> None:
        if self._mismatch:
            self._stats.warn(self._mismatch)
            return
        text = f'no image on {self.topic} for {_SILENCE_S:.0f} s'
        if not self._node.count_publishers(self.topic):
            text += ': it has no publisher'
            close = difflib.get_close_matches(self.topic, self._pictures(), n=3, cutoff=0.3)
            text += f'; images come on: {", ".join(close)}' if close else ''
        self._stats.warn(text)
        self._log.warning(text, throttle_duration_sec=30.0)

    def _pictures(self) -> list[str]:
        """List the topics on which other nodes publish pictures, compressed ones too."""
        own = (self._node.get_name(), self._node.get_namespace())
        return [
            name
            for name, kinds in self._node.get_topic_names_and_types()
            if not _PICTURES.isdisjoint(kinds)
            and any(
                (info.node_name, info.node_namespace) != own
                for info in self._node.get_publishers_info_by_topic(name)
            )
        ]
