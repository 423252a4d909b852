"""The camera node: publish image files, a video or a rendered sequence, with CameraInfo."""

from __future__ import annotations

import sys

import cv2
import numpy as np
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.task import Future
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from sd_perception_ros.geometry.pinhole import camera_from_fov, resize_camera
from sd_perception_ros.ros.messages.camera_info import info_from_camera
from sd_perception_ros.ros.messages.image import byte_array, image_message
from sd_perception_ros.ros.node.errors import format_error
from sd_perception_ros.ros.node.parameters import declare, likely_typos, parameter_names
from sd_perception_ros.ros.node.qos import OUTPUT
from sd_perception_ros.ros.node.shutdown import OK, run_node, SURVIVABLE_ERRORS
from sd_perception_ros.ros.node.topics import camera_info_topic, image_topic
from sd_perception_ros.ros.options import CameraOptions
from sd_perception_ros.ros.replay.sources import open_source, SourceFrame
from sd_perception_ros.types import Camera, UInt8

_DEFAULT_RATE_HZ = 10.0
_DEFAULT_FRAME = 'camera_optical_frame'
_JPEG_QUALITY = 90
_ACKNOWLEDGE_TIMEOUT = Duration(seconds=2)


class CameraNode(Node):
    """
    Publish the frames of files as a camera does.

    :raises ValueError: a wrong parameter value, or a source that cannot be read.
    """

    def __init__(self) -> None:
        super().__init__('camera')
        self._options = declare(self, CameraOptions, is_read_only=lambda name: True)
        for name, similar in likely_typos(self, parameter_names(CameraOptions)):
            self.get_logger().warning(f"unknown parameter '{name}'; did you mean '{similar}'?")
        self._source = open_source(self._options.source)
        self._source.frame(0)  # report a damaged first file at once
        self._frame_id = self._options.frame_id or self._source.frame_id or _DEFAULT_FRAME
        self._rate_hz = self._options.rate_hz or self._source.rate_hz or _DEFAULT_RATE_HZ
        self.finished = Future()
        self._next = 0
        self.sent = 0
        topic = image_topic(self, 'raw')
        self._images = self.create_publisher(Image, topic, OUTPUT)
        self._infos = self.create_publisher(CameraInfo, camera_info_topic(self, topic), OUTPUT)
        self._compressed = None
        if self._options.compressed:
            topic = image_topic(self, 'compressed')
            self._compressed = self.create_publisher(CompressedImage, topic, OUTPUT)

    def start(self) -> None:
        """Start the timer that sends the frames; the first one after one period."""
        self._started = not self._options.wait_for_subscribers
        # The steady clock is independent of simulated time and of steps of the system clock.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._timer = self.create_timer(1 / self._rate_hz, self._send_next, clock=steady)
        self.get_logger().info(
            f'{len(self._source)} frames of {self._options.source} at {self._rate_hz:g} Hz, '
            f'{"looping" if self._options.loop else "once"}, on {self._images.topic_name}'
            + ('' if self._started else '; waiting for a subscriber')
        )

    def close(self) -> None:
        """Do nothing: the node has no threads."""

    def _send_next(self) -> None:
        if not self._started and not self._has_subscribers():
            return
        self._started = True
        if self._next >= len(self._source):
            if not self._options.loop:
                self._end()
                return
            self._next = 0
        try:
            rgb, camera = self._prepare(self._source.frame(self._next))
        except SURVIVABLE_ERRORS as error:
            text = f'frame skipped: {format_error(error)}'
            self.get_logger().error(text, throttle_duration_sec=5.0)
        else:
            self._send(rgb, camera)
        self._next += 1

    def _has_subscribers(self) -> bool:
        return any(publisher.get_subscription_count() for publisher in self._image_publishers())

    def _image_publishers(self) -> list[Publisher]:
        return [self._images] + ([self._compressed] if self._compressed else [])

    def _send(self, rgb: UInt8, camera: Camera) -> None:
        header = Header(frame_id=self._frame_id)
        header.stamp = self.get_clock().now().to_msg()
        encoding = self._options.encoding
        # The info first, so that it arrives before its image.
        self._infos.publish(info_from_camera(camera, header))
        values = encode(rgb, encoding)
        msg = image_message(values, 'rgb8' if encoding == 'bgr8' else encoding, header)
        msg.encoding = encoding
        self._images.publish(msg)
        if self._compressed is not None:
            self._compressed.publish(jpeg_message(rgb, header))
        self.sent += 1

    def _prepare(self, frame: SourceFrame) -> tuple[UInt8, Camera]:
        """Return the frame at the published size, and its intrinsics."""
        height, width = frame.rgb.shape[:2]
        camera = frame.camera
        if camera is not None and (camera.width, camera.height) != (width, height):
            camera = resize_camera(camera, width, height)
        if camera is None:
            camera = camera_from_fov(width, height, self._options.horizontal_fov_deg)
        size = published_size(width, height, self._options.width, self._options.height)
        return resize(frame.rgb, camera, *size)

    def _end(self) -> None:
        self._timer.cancel()
        for publisher in (*self._image_publishers(), self._infos):
            publisher.wait_for_all_acked(_ACKNOWLEDGE_TIMEOUT)
        self.get_logger().info(f'end of the source: {self.sent} frames sent')
        self.finished.set_result(OK)


def published_size(width: int, height: int, to_width: int, to_height: int) -> tuple[int, int]:
    """Return the published (width, height); a side given as 0 keeps the aspect ratio."""
    if to_width and to_height:
        return to_width, to_height
    if to_width:
        return to_width, max(1, round(height * to_width / width))
    if to_height:
        return max(1, round(width * to_height / height)), to_height
    return width, height


def resize(rgb: UInt8, camera: Camera, width: int, height: int) -> tuple[UInt8, Camera]:
    """Resize an image and its intrinsics."""
    if (camera.width, camera.height) == (width, height):
        return rgb, camera
    method = cv2.INTER_AREA if width < camera.width else cv2.INTER_LINEAR
    resized = np.asarray(cv2.resize(rgb, (width, height), interpolation=method), np.uint8)
    return resized, resize_camera(camera, width, height)


def encode(rgb: UInt8, encoding: str) -> UInt8:
    """Convert an RGB image to the channels of an encoding: rgb8, bgr8 or mono8."""
    if encoding == 'bgr8':
        return np.ascontiguousarray(rgb[..., ::-1])
    if encoding == 'mono8':
        return np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), np.uint8)
    return rgb


def jpeg_message(rgb: UInt8, header: Header) -> CompressedImage:
    """Make a JPEG message, as compressed_image_transport does."""
    bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode('.jpg', bgr, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    msg = CompressedImage(header=header, format='rgb8; jpeg compressed bgr8')
    msg.data = byte_array(data)
    return msg


def main(argv: list[str] | None = None) -> int:
    """Run the node; arguments are ROS arguments (--ros-args ...)."""
    return run_node(CameraNode, 'camera', argv)


if __name__ == '__main__':
    sys.exit(main())
