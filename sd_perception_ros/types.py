"""What goes in and what comes out: cameras and predictions, as plain dataclasses of arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # the ROS side reads these types without torch
    from torch import Tensor

Float = NDArray[np.float32]
UInt8 = NDArray[np.uint8]


@dataclass(frozen=True)
class Camera:
    """
    Pinhole intrinsics in pixels of a (height, width) grid.

    Pixel centres lie at integer coordinates (as in sensor_msgs/CameraInfo and OpenCV), so the
    ray through pixel (u, v) is ((u - cx) / fx, (v - cy) / fy, 1) in the optical frame: x right,
    y down, z forward (REP 103).
    """

    fx: float
    fy: float
    cx: float
    cy: float
    width: int
    height: int


@dataclass(frozen=True)
class DepthMap:
    """
    Relative depth: right up to an unknown scale and shift, so never metres by itself.

    :ivar values: (H, W) float32, 0 near .. 1 far.
    """

    values: Float


@dataclass(frozen=True)
class NormalMap:
    """
    Surface normals in the camera optical frame.

    Surfaces that a camera sees face it: dot(normal, ray) < 0 in all training data. A network
    may still err; nothing turns its vectors, since that would hide a wrong axis sign.

    :ivar values: (H, W, 3) float32 unit vectors.
    """

    values: Float


@dataclass(frozen=True)
class LabelMap:
    """
    One class for each pixel.

    :ivar labels: (H, W) uint8 class ids.
    :ivar confidence: (H, W) float32, 0..1.
    """

    labels: UInt8
    confidence: Float


@dataclass(frozen=True)
class DisparityMap:
    """
    Relative inverse depth: 1 / depth up to an unknown scale and shift.

    :ivar values: (H, W) float32, 0 far .. 1 near.
    """

    values: Float


@dataclass(frozen=True)
class Matte:
    """
    How much of each pixel belongs to the foreground.

    :ivar alpha: (H, W) float32, 0..1.
    """

    alpha: Float


@dataclass(frozen=True)
class Person:
    """
    One person in a picture.

    :ivar joints: (17, 3) float32 in the order of `skeleton.JOINTS`, or (133, 3) in that of
        `skeleton.WHOLE_BODY`, which begins with the same 17: u and v in pixels of the
        picture, and a score 0..1; a joint that was not found is (NaN, NaN, 0).
    :ivar visible: (17,) or (133,) bool, whether the joint itself is seen, not only guessed from
        the others.
    :ivar score: 0..1, how sure it is that somebody is there.
    """

    joints: Float
    visible: NDArray[np.bool_]
    score: float


@dataclass(frozen=True)
class Poses:
    """
    The people in a picture, the surest first.

    :ivar height: of the picture, pixels.
    :ivar width: of the picture, pixels.
    :ivar joint_count: joints of each person: 17, or 133 of the whole body.
    """

    people: tuple[Person, ...]
    height: int
    width: int
    joint_count: int = 17


class Grid(NamedTuple):
    """
    How the cells of an output lie on its picture.

    :ivar height: of the picture, pixels.
    :ivar width: of the picture, pixels.
    :ivar cell_x_px: width of a cell in pixels of the picture.
    :ivar cell_y_px: height of a cell.
    """

    height: int
    width: int
    cell_x_px: float
    cell_y_px: float


Prediction = DepthMap | DisparityMap | NormalMap | LabelMap | Matte | Poses

# What a data set gives and a task reads: float32 tensors by name. Maps are (B, C, H, W) of one
# H, W:
#   image       3 channels, RGB in -1..1
#   depth_m     1 channel, metres along +z, NaN unknown, +Inf nothing in range (sky)
#   normals     3 channels, unit vectors in the optical frame, (0, 0, 0) unknown
#   labels      1 channel, class ids, 255 unknown
#   foreground  1 channel, share of the pixel that things and people cover, 0..1, NaN unknown
#   matte       1 channel, share of the pixel that people cover, 0..1, NaN unknown
# And joints, (B, P, 17, 3): for each of at most P people u and v in pixels of these maps, and
# COCO's flag: 0 not labelled, 1 hidden, 2 visible. What COCO does not have is -1: outside the
# picture, and u and v say where; to measure, it is the same as 0. Rows of zeros fill up.
# For measuring alone, where outlines are known: bodies, (1, Q, 6), of the P people of joints, then
# of people whose joints nobody marked and of crowds: left, top, width and height of the box in
# pixels, area of the outline in square pixels, and 1 for a crowd.
Sample: TypeAlias = 'dict[str, Tensor]'
