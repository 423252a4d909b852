"""A frame of a camera on its way through the node."""

from __future__ import annotations

from dataclasses import dataclass

from std_msgs.msg import Header

from sd_perception_ros.types import Camera, UInt8


@dataclass(frozen=True)
class Frame:
    """
    One picture with its header and intrinsics.

    :ivar header: of the image message; all outputs carry it.
    :ivar rgb: (H, W, 3) uint8.
    :ivar camera: intrinsics of this picture; None where no usable camera_info came.
    """

    header: Header
    rgb: UInt8
    camera: Camera | None = None


def stamp_ns(header: Header) -> int:
    """Return the stamp of a header in nanoseconds."""
    return int(header.stamp.sec) * 1_000_000_000 + int(header.stamp.nanosec)
