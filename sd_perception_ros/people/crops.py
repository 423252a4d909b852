"""Crops of people for a network, and joints from a crop to its image."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from sd_perception_ros.people.boxes import Box
from sd_perception_ros.types import Float, UInt8

ASPECT = 3 / 4  # width by height of a crop, as in COCO's top-down protocol
ENLARGED = 1.25  # a box grows by this before it is cropped


class Region(NamedTuple):
    """
    The part of an image in a crop, in pixels of the image.

    Unbiased coordinates (UDP, arXiv 1911.07524): the first pixel's centre of the crop lies at
    (left, top), the last one's at (left + width, top + height).
    """

    left: float
    top: float
    width: float
    height: float


def region_of(box: Box) -> Region:
    """Return the region of a box: enlarged by 1.25, the shorter side extended to 3:4."""
    width, height = max(box.width, 1.0) * ENLARGED, max(box.height, 1.0) * ENLARGED
    if width > height * ASPECT:
        height = width / ASPECT
    else:
        width = height * ASPECT
    center_x, center_y = box.left + box.width / 2, box.top + box.height / 2
    return Region(center_x - width / 2, center_y - height / 2, width, height)


def second_look_size(long_side_px: int) -> tuple[int, int]:
    """
    Return (height, width) of the crops of a second look.

    :param long_side_px: longer side of the network's input for a whole image.
    """
    height = max(round(long_side_px / 32), 1) * 32
    return height, round(height * ASPECT)


def warp_of(
    region: Region, width: int, height: int, angle_deg: float = 0.0
) -> NDArray[np.float64]:
    """
    Return the (2, 3) matrix from (x, y, 1) in an image to (x, y) in a crop.

    :param width: width of the crop, pixels.
    :param height: height of the crop.
    :param angle_deg: clockwise rotation around the centre of the region.
    """
    scale = np.array([(width - 1) / region.width, (height - 1) / region.height])
    angle = np.deg2rad(angle_deg)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = scale[:, None] * turn
    middle = np.array([region.left + region.width / 2, region.top + region.height / 2])
    shift = np.array([width - 1, height - 1]) / 2 - matrix @ middle
    return np.concatenate([matrix, shift[:, None]], 1)


def crop(rgb: UInt8, region: Region, width: int, height: int, angle_deg: float = 0.0) -> UInt8:
    """
    Resize a region of an image to a crop, bilinear, black outside of the image.

    :param rgb: (H, W, 3) uint8.
    :param angle_deg: as for `warp_of`.
    :returns: (height, width, 3) uint8.
    """
    cropped = cv2.warpAffine(
        np.ascontiguousarray(rgb),
        warp_of(region, width, height, angle_deg),
        (width, height),
        flags=cv2.INTER_LINEAR,
    )
    return np.asarray(cropped, np.uint8)


def to_image(joints: Float, region: Region, width: int, height: int) -> Float:
    """
    Convert joints from pixels of a crop to pixels of its image.

    :param joints: (K, 3) float32: x and y in pixels of the crop, and a value that is kept.
    :param width: width of the crop, pixels.
    :param height: height of the crop.
    """
    scale = np.array([region.width / (width - 1), region.height / (height - 1), 1], np.float32)
    shift = np.array([region.left, region.top, 0], np.float32)
    return np.asarray(joints * scale + shift, np.float32)


def to_crop(joints: Float, region: Region, width: int, height: int) -> Float:
    """Convert joints from pixels of an image to those of a crop; the inverse of `to_image`."""
    scale = np.array([(width - 1) / region.width, (height - 1) / region.height, 1], np.float32)
    shift = np.array([region.left, region.top, 0], np.float32)
    return np.asarray((joints - shift) * scale, np.float32)
