"""A camera frame: image, header and intrinsics."""

from __future__ import annotations

from dataclasses import dataclass

from std_msgs.msg import Header

from sd_perception_ros.types import Camera, UInt8


@dataclass(frozen=True)
class CameraFrame:
    """
    One image of a camera, with its header and intrinsics.

    :ivar header: header of the image message; all outputs have it.
    :ivar rgb: (H, W, 3) uint8.
    :ivar camera: intrinsics of this image; None without a usable camera_info.
    """

    header: Header
    rgb: UInt8
    camera: Camera | None = None


def stamp_ns(header: Header) -> int:
    """Return the stamp of a header in nanoseconds."""
    return int(header.stamp.sec) * 1_000_000_000 + int(header.stamp.nanosec)
