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
    image_size,
    is_distorted,
    lens_from_info,
)
from sd_perception_ros.ros.node.diagnostics import NodeStatistics
from sd_perception_ros.ros.node.logs import PersistentWarning
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
        self._drop_warning = PersistentWarning(self._log)
        self._info_warning = PersistentWarning(self._log)
        self._type_warning = PersistentWarning(self._log)
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

    def set_options(self, options: InputOptions) -> None:
        """Use other options from the next frame on; `image_transport` stays."""
        self._options = options
        self._policy.set_limits(options.max_frame_age_s, options.drop_duplicate_stamps)
        self._qos_problem = ''
        self._adapt_qos()

    def info_for(self, header: Header, rgb: UInt8, is_needed: bool = False) -> CameraInfo | None:
        """
        Return the camera_info of an image; None and a warning if there is none.

        :param is_needed: whether a subscribed output needs it; then a lasting lack is logged, and
            so is an empty frame_id.
        """
        height, width = rgb.shape[:2]
        info = self._infos.match(header, width, height)
        problem = ''
        if info is None:
            problem = (
                f"no camera_info for frame '{header.frame_id}' and {width} x {height} pixels on "
                f'{self.info_topic}: {self._received_infos(header)}; points, scan and markers are '
                'not published for this image'
            )
            self._stats.warn(problem)
        elif is_needed and not header.frame_id:
            problem = (
                f'the images on {self.topic} have an empty frame_id: points, scan, markers and '
                'keypoints are not published; set the frame_id of the camera driver'
            )
            self._stats.warn(problem)
        if is_needed and problem:
            self._info_warning.report(problem)
        elif is_needed:
            self._info_warning.clear()
        return info

    def _received_infos(self, header: Header) -> str:
        """Return what was received instead of the camera_info of an image, and what to do."""
        latest = self._infos.latest
        if latest is None:
            if not self._node.count_publishers(self.info_topic):
                return 'it has no publisher, remap camera_info'
            return 'none was received'
        if latest.header.frame_id != header.frame_id:
            return (
                f"the one received is of frame '{latest.header.frame_id}', set the same frame_id "
                'for images and camera_info in the camera driver'
            )
        width, height = image_size(latest)
        return (
            f'the one received is of {width} x {height} pixels, calibrate the camera at the size '
            'of its images'
        )

    def camera_of(self, info: CameraInfo, rgb: UInt8, was_rectified: bool) -> Camera | None:
        """
        Return the intrinsics of an image, after rectification.

        :param info: camera_info of the image.
        :param was_rectified: whether `rectified` made the image.
        :returns: None, and an error in the log, if the info cannot be used.
        """
        height, width = rgb.shape[:2]
        try:
            rectified = self._rectified or (was_rectified and any(info.p))
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
        if is_distorted(info) and not self._rectified and not was_rectified:
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
        now_ns = self._now_ns()
        return self._is_dropped(self._policy.too_old(stamp_ns(header), now_ns), header, now_ns)

    def on_timer(self) -> None:
        """Adapt to the QoS of new publishers; report why a topic is silent."""
        self._adapt_qos()
        if time.monotonic() - self._last_arrival_s > _SILENCE_S:
            self._report_silence()
        elif problem := self._wrong_type():
            self._type_warning.report(problem)

    def _adapt_qos(self) -> None:
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
        now_ns = self._now_ns()
        reason = self._policy.reason_to_drop(stamp_ns(msg.header), now_ns)
        if not self._is_dropped(reason, msg.header, now_ns):
            self._deliver(msg, arrival_ns)

    def _is_dropped(self, reason: str, header: Header, now_ns: int) -> bool:
        """Count and report a frame that is dropped; '' means that it is processed."""
        if reason:
            stamp, options = stamp_ns(header), self._options
            details = {
                'too_old': f'the stamp is {(now_ns - stamp) / 1e9:.3f} s old, more than '
                f'max_frame_age_s = {options.max_frame_age_s:g}; synchronize the clocks of camera '
                'and node, or use_sim_time with a bag',
                'stamp_not_later': 'the stamp is '
                f'{((self._policy.last_ns or 0) - stamp) / 1e9:.3f} s before that of the previous '
                'frame, and the topic has '
                f'{self._node.count_publishers(self.topic)} publishers; correct the stamps, or '
                'set drop_duplicate_stamps: false',
            }
            text = f'frames on {self.topic} are dropped, {reason}: {details[reason]}'
            self._stats.count(f'dropped: {reason}')
            self._stats.warn(text)
            self._drop_warning.report(text)
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
        if problem := self._wrong_type():
            self._stats.warn(problem)
            self._type_warning.report(problem)
            return
        text = f'no image on {self.topic} for {_SILENCE_S:.0f} s'
        if not self._node.count_publishers(self.topic):
            text += ': it has no publisher'
            similar = difflib.get_close_matches(self.topic, self._other_topics(), n=3, cutoff=0.3)
            text += f'; topics with images: {", ".join(similar)}' if similar else ''
        self._stats.warn(text)
        self._log.warning(text, throttle_duration_sec=30.0)

    def _wrong_type(self) -> str:
        """Return what to do if the publishers of the topic have another type; else ''."""
        own = 'Image' if self._options.image_transport == 'raw' else 'CompressedImage'
        types = {info.topic_type for info in self._node.get_publishers_info_by_topic(self.topic)}
        if not types or f'sensor_msgs/msg/{own}' in types:
            return ''
        remedies = {
            'sensor_msgs/msg/CompressedImage': 'set image_transport: compressed and remap '
            f'image_raw/compressed:={self.topic}',
            'sensor_msgs/msg/Image': f'set image_transport: raw and remap image_raw:={self.topic}',
        }
        remedy = next((remedies[kind] for kind in remedies if kind in types), 'remap image_raw')
        return (
            f'{self.topic} has the type {", ".join(sorted(types))}, and image_transport: '
            f'{self._options.image_transport} needs sensor_msgs/msg/{own}; {remedy}'
        )

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
