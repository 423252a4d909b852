"""Subscription to the boxes around people of an object detector."""

from __future__ import annotations

from collections.abc import Callable
import time
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from sd_perception_ros.people.boxes import Box
from sd_perception_ros.people.options import TopDownOptions
from sd_perception_ros.ros.frame import stamp_ns
from sd_perception_ros.ros.input.pairing import PendingImages, StampedMessages
from sd_perception_ros.ros.messages.detections import (
    boxes_of_detections,
    DETECTIONS,
    DETECTIONS_LOG_TEXT,
    read_detections,
)
from sd_perception_ros.ros.node.diagnostics import NodeStatistics
from sd_perception_ros.ros.node.qos import resolve_qos
from sd_perception_ros.ros.node.topics import camera_topic

TOPIC = 'detections'
_SHORTEST_PERIOD_S = 0.005


class DetectionInput:
    """
    Subscribe to the detections of one camera, and match them with images.

    The executor thread calls everything but `boxes`, so an image that waits for its detections
    blocks no other camera.

    :param deliver: called with each image, when its detections have come or it waited too long.
    :param camera: name of the camera, if there are several.
    :ivar topic: full name of the topic.
    """

    def __init__(
        self,
        node: Node,
        options: TopDownOptions,
        stats: NodeStatistics,
        deliver: Callable[[Image | CompressedImage, int], None],
        camera: str = '',
    ) -> None:
        self._node, self._options, self._stats = node, options, stats
        self.topic = node.resolve_topic_name(camera_topic(camera, TOPIC))
        self._messages: StampedMessages[tuple[Header, list[Any]]] = StampedMessages(
            self.topic, 'human_pose.top_down.max_offset_s', options.max_offset_s
        )
        self._deliver = deliver
        self._pending: PendingImages[tuple[Image | CompressedImage, int]] = PendingImages(
            round(options.max_wait_s * 1e9)
        )
        period_s = max(options.max_wait_s / 4, _SHORTEST_PERIOD_S)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._timer = node.create_timer(period_s, self._end_waiting, clock=steady)
        self._timer.cancel()  # it runs while images wait
        self._offered = resolve_qos(node, self.topic)
        self._subscription = self._subscribe()
        if DETECTIONS_LOG_TEXT:
            node.get_logger().info(DETECTIONS_LOG_TEXT, once=True)

    def deliver_with_detections(self, msg: Image | CompressedImage, arrival_ns: int) -> None:
        """Deliver an image when its detections have come, at the latest after `max_wait_s`."""
        stamp = stamp_ns(msg.header)
        has_detector = (
            stamp and self._options.max_wait_s and self._node.count_publishers(self.topic)
        )
        if not has_detector or self._messages.reaches(stamp):
            self._deliver_pending(stamp)  # older ones first
            self._deliver(msg, arrival_ns)
            return
        self._pending.add(stamp, arrival_ns, (msg, arrival_ns))
        self._deliver_pending(None)
        if len(self._pending):
            self._timer.reset()

    def boxes(self, header: Header) -> list[Box]:
        """
        Return the boxes around people of the message nearest in time to an image, in pixels.

        :raises ValueError: no message is near enough, or it has another frame_id.
        """
        detections_header, detections = self._messages.nearest(stamp_ns(header))
        if detections_header.frame_id != header.frame_id:
            raise ValueError(
                f"{self.topic} is in frame '{detections_header.frame_id}' and the image in "
                f"'{header.frame_id}'; run the detector on the same image topic"
            )
        options = self._options
        return boxes_of_detections(detections, options.detection_classes, options.min_box_score)

    def on_timer(self) -> None:
        """Adapt to the QoS of new publishers."""
        offered = resolve_qos(self._node, self.topic)
        if offered != self._offered:
            self._offered = offered
            self._node.destroy_subscription(self._subscription)
            self._subscription = self._subscribe()

    def reset(self) -> None:
        """Forget all messages and the images that wait, after a jump in time."""
        self._messages.clear()
        self._pending.clear()

    def close(self) -> None:
        """Unsubscribe, and drop the images that wait."""
        self._pending.clear()
        self._node.destroy_timer(self._timer)
        self._node.destroy_subscription(self._subscription)

    def _subscribe(self) -> Any:
        return self._node.create_subscription(DETECTIONS, self.topic, self._receive, self._offered)

    def _receive(self, msg: Any) -> None:
        try:
            header, detections = read_detections(msg)
        except ValueError as error:
            self._stats.warn(f'{self.topic}: {error}')
            return
        self._messages.add(stamp_ns(header), (header, detections))
        self._deliver_pending(stamp_ns(header))

    def _end_waiting(self) -> None:
        self._deliver_pending(None)
        if not len(self._pending):
            self._timer.cancel()

    def _deliver_pending(self, stamp: int | None) -> None:
        for msg, arrival_ns in self._pending.take(stamp, time.monotonic_ns()):
            self._deliver(msg, arrival_ns)
