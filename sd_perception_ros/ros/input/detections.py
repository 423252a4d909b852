"""Subscription to the boxes around people of an object detector."""

from __future__ import annotations

from typing import Any

from rclpy.node import Node
from std_msgs.msg import Header

from sd_perception_ros.people.boxes import Box
from sd_perception_ros.people.options import TopDownOptions
from sd_perception_ros.ros.frame import stamp_ns
from sd_perception_ros.ros.input.pairing import StampedMessages
from sd_perception_ros.ros.messages.detections import (
    boxes_of_detections,
    DETECTIONS,
    DETECTIONS_LOG_TEXT,
    read_detections,
)
from sd_perception_ros.ros.node.diagnostics import NodeStatistics
from sd_perception_ros.ros.node.qos import input_qos, resolve_reliability
from sd_perception_ros.ros.node.topics import camera_topic

TOPIC = 'detections'


class DetectionInput:
    """
    Subscribe to the detections of one camera, and match them with images.

    :param camera: name of the camera, if there are several.
    :ivar topic: full name of the topic.
    """

    def __init__(
        self, node: Node, options: TopDownOptions, stats: NodeStatistics, camera: str = ''
    ) -> None:
        self._node, self._options, self._stats = node, options, stats
        self.topic = node.resolve_topic_name(camera_topic(camera, TOPIC))
        self._messages: StampedMessages[tuple[Header, list[Any]]] = StampedMessages(
            self.topic, 'human_pose.top_down.max_offset_s', options.max_offset_s
        )
        self._offered = resolve_reliability(node, self.topic, 'auto')
        self._subscription = self._subscribe()
        if DETECTIONS_LOG_TEXT:
            node.get_logger().info(DETECTIONS_LOG_TEXT, once=True)

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
        offered = resolve_reliability(self._node, self.topic, 'auto')
        if offered != self._offered:
            self._offered = offered
            self.close()
            self._subscription = self._subscribe()

    def reset(self) -> None:
        """Forget all messages, after a jump in time."""
        self._messages.clear()

    def close(self) -> None:
        """Unsubscribe."""
        self._node.destroy_subscription(self._subscription)

    def _subscribe(self) -> Any:
        return self._node.create_subscription(
            DETECTIONS, self.topic, self._receive, input_qos(self._offered)
        )

    def _receive(self, msg: Any) -> None:
        try:
            header, detections = read_detections(msg)
        except ValueError as error:
            self._stats.warn(f'{self.topic}: {error}')
            return
        self._messages.add(stamp_ns(header), (header, detections))
