"""Transforms between sensors: from tf2 if it is installed, else from mounting parameters."""

from __future__ import annotations

import numpy as np
from rclpy.node import Node
from std_msgs.msg import Header

try:
    from rclpy.time import Time
    from tf2_ros import Buffer, TransformException, TransformListener
except ImportError:  # not among the wheels of PyPI
    Buffer = None

from sd_perception_ros.geometry.pinhole import (
    BODY_FROM_OPTICAL,
    mounting,
    rotation_from_quaternion,
    Transform,
)
from sd_perception_ros.metric_depth.options import MountingOptions


class Transforms:
    """
    Look up transforms in tf2.

    :ivar has_tf: whether tf2 is installed; if not, mounting parameters are used.
    """

    has_tf = Buffer is not None

    def __init__(self, node: Node) -> None:
        self._buffer = Buffer(node=node) if self.has_tf else None
        self._listener = TransformListener(self._buffer, node) if self.has_tf else None

    def lookup(self, target: str, header: Header) -> Transform | None:
        """
        Return the transform target_from_source; None if tf2 is not installed.

        :param target: target frame.
        :param header: source frame and time.
        :raises ValueError: tf2 has no such transform (yet).
        """
        if self._buffer is None:
            return None
        if target == header.frame_id:
            return Transform(np.eye(3), np.zeros(3))
        try:
            transform = self._buffer.lookup_transform(
                target, header.frame_id, Time.from_msg(header.stamp)
            ).transform
        except TransformException as error:
            raise ValueError(
                f"tf2 has no transform from '{header.frame_id}' to '{target}': {error}"
            ) from None
        rotation, translation = transform.rotation, transform.translation
        return Transform(
            rotation_from_quaternion(rotation.x, rotation.y, rotation.z, rotation.w),
            np.array([translation.x, translation.y, translation.z]),
        )

    def close(self) -> None:
        """Unsubscribe from tf2."""
        if self._listener is not None:
            self._listener.unregister()


def parent_from_optical(options: MountingOptions) -> Transform:
    """Return the transform from a camera's optical frame to the frame it is mounted in."""
    return _parent_from_child(options).after(BODY_FROM_OPTICAL)


def optical_from_body(options: MountingOptions) -> Transform:
    """Return the transform from a sensor mounted on a camera to the camera's optical frame."""
    return BODY_FROM_OPTICAL.inverse().after(_parent_from_child(options))


def _parent_from_child(options: MountingOptions) -> Transform:
    return mounting(
        options.x_m,
        options.y_m,
        options.z_m,
        options.roll_deg,
        options.pitch_deg,
        options.yaw_deg,
    )
