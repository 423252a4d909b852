"""Subscriptions of one camera: QoS that fits the publisher, CameraInfo, and checks of stamps."""

from __future__ import annotations

from collections.abc import Callable
import difflib
import time

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, qos_policy_name_from_kind
from rclpy.subscription import Subscription
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

try:
    from rclpy.event_handler import QoSRequestedIncompatibleQoSInfo, SubscriptionEventCallbacks
except ImportError:  # ROS 2 Humble
    from rclpy.qos_event import QoSRequestedIncompatibleQoSInfo, SubscriptionEventCallbacks

from sd_perception_ros.compressed_images import rgb_from_message
from sd_perception_ros.exposure import exposure_problem
from sd_perception_ros.geometry.undistortion import Lens
from sd_perception_ros.image_encodings import BitDepth
from sd_perception_ros.ros.frame import stamp_ns
from sd_perception_ros.ros.input.pairing import CameraInfos, FramePolicy
from sd_perception_ros.ros.messages.camera_info import (
    camera_from_info,
    doubts,
    is_distorted,
    lens_from_info,
)
from sd_perception_ros.ros.node.diagnostics import NodeStatistics
from sd_perception_ros.ros.node.qos import resolve_qos
from sd_perception_ros.ros.node.topics import camera_info_topic, image_topic
from sd_perception_ros.ros.options import InputOptions
from sd_perception_ros.types import Camera, UInt8

# Share of a rectified image that must come from the raw one.
_LEAST_SEEN = 0.25
# A topic without messages for this time is reported.
_SILENCE_S = 5.0
_IMAGE_TYPES = {'sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage'}


class CameraInput:
    """
    Subscribe to one camera and pass on the images to process.

    :param deliver: called by the executor with an image message and its arrival time, in
        nanoseconds of `time.monotonic_ns`.
    :param camera: name of the camera, if there are several.
    """

    def __init__(
        self,
        node: Node,
        options: InputOptions,
        stats: NodeStatistics,
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
        self._bit_depth = BitDepth()
        self._lens: Lens | None = None
        self._policy = FramePolicy(options.max_frame_age_s, options.drop_duplicate_stamps)
        self._last_arrival_s = time.monotonic()
        self._qos_problem = ''
        self._offered = resolve_qos(node, self.topic, options.qos_reliability)
        self._images = self._subscribe_images()
        self._info_offered = resolve_qos(node, self.info_topic, options.qos_reliability)
        self._info_subscription = self._subscribe_infos()

    def decode(self, msg: Image | CompressedImage) -> UInt8:
        """
        Convert an image to (H, W, 3) RGB; black, saturated and uniform images are reported.

        :raises ValueError: see `rgb_from_message`.
        """
        rgb = rgb_from_message(msg, self._options.max_pixels, self._bit_depth)
        if self._bit_depth.bits:
            self._stats.set('bits of 16-bit values', str(self._bit_depth.bits))
        if problem := exposure_problem(rgb):
            text = f'images on {self.topic} are {problem}: check exposure, lens and driver'
            self._stats.count(f'images that are {problem}')
            self._stats.warn(text)
            self._log.warning(text, throttle_duration_sec=30.0)
        return rgb

    def info_for(self, header: Header, rgb: UInt8) -> CameraInfo | None:
        """Return the camera_info of an image; None and a warning if there is none."""
        height, width = rgb.shape[:2]
        info = self._infos.match(header, width, height)
        if info is None:
            self._stats.warn(
                f"no camera_info for frame '{header.frame_id}' and {width} x {height} pixels on "
                f'{self.info_topic}: outputs in metres are not published for this image'
            )
        return info

    def camera_of(self, info: CameraInfo, rgb: UInt8) -> Camera | None:
        """
        Return the intrinsics of an image, after rectification.

        :param info: camera_info of the image.
        :returns: None, and an error in the log, if the info cannot be used.
        """
        height, width = rgb.shape[:2]
        try:
            rectified = self._rectified or (self._options.rectify and any(info.p))
            camera = camera_from_info(info, width, height, rectified)
        except ValueError as error:
            text = f'{error}; outputs in metres are not published ({self.info_topic})'
            self._stats.error(text)
            self._log.error(text, throttle_duration_sec=10.0)
            return None
        for doubt in doubts(info):
            text = f'{doubt} ({self.info_topic})'
            self._stats.warn(text)
            self._log.warning(text, throttle_duration_sec=60.0)
        if is_distorted(info) and not self._rectified and not self._options.rectify:
            self._log.warning(
                f'{self.topic} is distorted, and points are computed without rectification; '
                'subscribe to image_rect or set rectify: true',
                once=True,
            )
        return camera

    def rectified(self, info: CameraInfo | None, rgb: UInt8) -> UInt8:
        """
        Rectify an image; `camera_of` returns the intrinsics of the rectified image.

        :param info: camera_info of the image.
        :raises ValueError: there is no camera_info, or it cannot be used.
        """
        height, width = rgb.shape[:2]
        if self._rectified:
            self._log.info(f'{self.topic} is rectified already: rectify is not used', once=True)
            return rgb
        if info is None:
            raise ValueError(
                f'rectify: true needs a camera_info, none was received on {self.info_topic}'
            )
        lens = lens_from_info(info, width, height)
        # Keep the lens as long as its values are equal: its maps are computed once.
        self._lens = self._lens if self._lens == lens else lens
        if self._lens.seen < _LEAST_SEEN:
            raise ValueError(
                f'CameraInfo.d {list(lens.coefficients)} does not fit K and P: only '
                f'{self._lens.seen:.0%} of the rectified image would come from the camera'
            )
        return self._lens.rectify(rgb)

    def too_old(self, header: Header) -> bool:
        """Return whether a frame became too old while it waited, and count it."""
        return self._is_dropped(self._policy.too_old(stamp_ns(header), self._now_ns()))

    def on_timer(self) -> None:
        """Adapt to the QoS of new publishers; report why a topic is silent."""
        setting = self._options.qos_reliability
        offered = resolve_qos(self._node, self.topic, setting)
        if offered != self._offered:
            self._offered = offered
            self._node.destroy_subscription(self._images)
            self._images = self._subscribe_images()
            kind = f'{offered.reliability.name}, {offered.durability.name}'
            self._log.info(f'{self.topic} is published as {kind}: subscribed again')
        offered = resolve_qos(self._node, self.info_topic, setting)
        if offered != self._info_offered:
            self._info_offered = offered
            self._node.destroy_subscription(self._info_subscription)
            self._info_subscription = self._subscribe_infos()
        if time.monotonic() - self._last_arrival_s > _SILENCE_S:
            self._report_silence()

    def reset(self) -> None:
        """Forget stamps and camera infos, after a jump in time; a latched info comes only once."""
        if self._info_offered.durability != DurabilityPolicy.TRANSIENT_LOCAL:
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
            kind, self.topic, self._receive, self._offered, event_callbacks=events
        )

    def _subscribe_infos(self) -> Subscription:
        return self._node.create_subscription(
            CameraInfo, self.info_topic, self._infos.add, self._info_offered
        )

    def _receive(self, msg: Image | CompressedImage) -> None:
        arrival_ns = time.monotonic_ns()
        self._last_arrival_s = time.monotonic()
        self._qos_problem = ''
        self._stats.count('received')
        reason = self._policy.reason_to_drop(stamp_ns(msg.header), self._now_ns())
        if not self._is_dropped(reason):
            self._deliver(msg, arrival_ns)

    def _is_dropped(self, reason: str) -> bool:
        """Count a frame that is dropped for a reason; '' means that it is processed."""
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
        self._qos_problem = (
            f'incompatible QoS: a publisher of {self.topic} does not offer the {policy} of this '
            f'subscription (qos_reliability: {self._options.qos_reliability}); '
            'set qos_reliability: auto'
        )
        self._log.warning(self._qos_problem)

    def _report_silence(self) -> None:
        if self._qos_problem:
            self._stats.warn(self._qos_problem)
            return
        text = f'no image on {self.topic} for {_SILENCE_S:.0f} s'
        if not self._node.count_publishers(self.topic):
            text += ': it has no publisher'
            similar = difflib.get_close_matches(self.topic, self._other_topics(), n=3, cutoff=0.3)
            text += f'; topics with images: {", ".join(similar)}' if similar else ''
        self._stats.warn(text)
        self._log.warning(text, throttle_duration_sec=30.0)

    def _other_topics(self) -> list[str]:
        """List the topics on which other nodes publish raw or compressed images."""
        this_node = (self._node.get_name(), self._node.get_namespace())
        return [
            name
            for name, types in self._node.get_topic_names_and_types()
            if not _IMAGE_TYPES.isdisjoint(types)
            and any(
                (info.node_name, info.node_namespace) != this_node
                for info in self._node.get_publishers_info_by_topic(name)
            )
        ]
