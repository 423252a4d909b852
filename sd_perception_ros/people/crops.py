"""From a box to the crop that a network reads, and from its joints back to the picture."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from sd_perception_ros.people.boxes import Box
from sd_perception_ros.types import Float, UInt8

ASPECT = 3 / 4  # width by height of a crop, as in COCO's top-down protocol
ENLARGED = 1.25  # a box grows by this before it is cropped


class Region(NamedTuple):
    """
    The part of a picture that a crop shows, in pixels of the picture.

    Unbiased coordinates (UDP, arXiv 1911.07524): the first pixel's centre of the crop lies at
    (left, top), the last one's at (left + width, top + height).
    """

    left: float
    top: float
    width: float
    height: float


def region_of(box: Box) -> Region:
    """Return the region of a box: 1.25 times as large, the shorter side grown to 3:4."""
    width, height = max(box.width, 1.0) * ENLARGED, max(box.height, 1.0) * ENLARGED
    if width > height * ASPECT:
        height = width / ASPECT
    else:
        width = height * ASPECT
    middle_x, middle_y = box.left + box.width / 2, box.top + box.height / 2
    return Region(middle_x - width / 2, middle_y - height / 2, width, height)


def crop(rgb: UInt8, region: Region, width: int, height: int) -> UInt8:
    """
    Cut a region out of a picture, bilinear, black outside of the picture.

    :param rgb: (H, W, 3) uint8.
    :returns: (height, width, 3) uint8.
    """
    scale_x, scale_y = (width - 1) / region.width, (height - 1) / region.height
    warp = np.array(
        [[scale_x, 0, -region.left * scale_x], [0, scale_y, -region.top * scale_y]], np.float64
    )
    picture = cv2.warpAffine(
        np.ascontiguousarray(rgb), warp, (width, height), flags=cv2.INTER_LINEAR
    )
    return np.asarray(picture, np.uint8)


def to_picture(joints: Float, region: Region, width: int, height: int) -> Float:
    """
    Bring joints from a crop to its picture.

    :param joints: (K, 3) float32: x and y in pixels of the crop, and anything.
    :param width: of the crop, pixels.
    """
    scale = np.array([region.width / (width - 1), region.height / (height - 1), 1], np.float32)
    shift = np.array([region.left, region.top, 0], np.float32)
    return np.asarray(joints * scale + shift, np.float32)


def to_crop(joints: Float, region: Region, width: int, height: int) -> Float:
    """Bring joints from a picture to a crop of it; the inverse of `to_picture`."""
    scale = np.array([(width - 1) / region.width, (height - 1) / region.height, 1], np.float32)
    shift = np.array([region.left, region.top, 0], np.float32)
    return np.asarray((joints - shift) * scale, np.float32)
