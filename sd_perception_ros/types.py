"""What goes in and what comes out: cameras and predictions, as plain dataclasses of arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

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


Prediction = DepthMap | NormalMap | LabelMap

# What a data set gives and a task reads: (B, C, H, W) float32 tensors of one H, W by name:
#   image    3 channels, RGB in -1..1
#   depth_m  1 channel, metres along +z, NaN unknown, +Inf nothing in range (sky)
#   normals  3 channels, unit vectors in the optical frame, (0, 0, 0) unknown
#   labels   1 channel, class ids
Sample: TypeAlias = 'dict[str, Tensor]'
