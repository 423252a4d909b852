"""Transforms between sensors: from tf2 where it is installed, else from parameters."""

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

    :ivar has_tf: whether tf2 is installed; if not, only mounting parameters are used.
    """

    has_tf = Buffer is not None

    def __init__(self, node: Node) -> None:
        self._buffer = Buffer(node=node) if self.has_tf else None
        self._listener = TransformListener(self._buffer, node) if self.has_tf else None

    def lookup(self, target: str, header: Header) -> Transform | None:
        """
        Return the transform to a frame from that of a header, at its time; None without tf2.

        :raises ValueError: tf2 does not know it (yet).
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


def optical_in(options: MountingOptions) -> Transform:
    """Return the transform from the optical frame of a camera that is mounted like this."""
    return _mounted(options).after(BODY_FROM_OPTICAL)


def body_in_optical(options: MountingOptions) -> Transform:
    """Return the transform to a camera's optical frame from a body mounted to that camera."""
    return BODY_FROM_OPTICAL.inverse().after(_mounted(options))


def _mounted(options: MountingOptions) -> Transform:
    return mounting(
        options.x_m,
        options.y_m,
        options.z_m,
        options.roll_deg,
        options.pitch_deg,
        options.yaw_deg,
    )
