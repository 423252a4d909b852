"""Cameras, predictions and samples, as dataclasses of arrays."""

from __future__ import annotations

from dataclasses import dataclass, fields
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
    Relative depth: depth up to an unknown scale and shift, not in metres.

    :ivar values: (H, W) float32, 0 near .. 1 far.
    """

    values: Float


@dataclass(frozen=True)
class NormalMap:
    """
    Surface normals in the camera optical frame.

    Visible surfaces face the camera: dot(normal, ray) < 0 in all training data. Predicted normals
    that do not are not flipped: that would hide a wrong axis sign.

    :ivar values: (H, W, 3) float32 unit vectors.
    """

    values: Float


@dataclass(frozen=True)
class LabelMap:
    """
    Semantic segmentation.

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
    Alpha matte: fraction of each pixel that is foreground.

    :ivar alpha: (H, W) float32, 0..1.
    """

    alpha: Float


@dataclass(frozen=True)
class Person:
    """
    One person in an image.

    :ivar joints: (17, 3) float32 in the order of `skeleton.JOINTS`, or (133, 3) in that of
        `skeleton.WHOLE_BODY`, which begins with the same 17: u and v in pixels of the image, and
        a score 0..1; a joint that was not detected is (NaN, NaN, 0).
    :ivar visible: (17,) or (133,) bool; false for joints that are occluded or inferred from
        others.
    :ivar score: 0..1, confidence of the detection.
    """

    joints: Float
    visible: NDArray[np.bool_]
    score: float


@dataclass(frozen=True)
class Poses:
    """
    The people in an image, sorted by score.

    :ivar height: height of the image, pixels.
    :ivar width: width of the image, pixels.
    :ivar joint_count: joints of each person: 17, or 133 of the whole body.
    """

    people: tuple[Person, ...]
    height: int
    width: int
    joint_count: int = 17


def check_finite(name: str, prediction: Prediction) -> None:
    """
    Refuse a map with NaN or infinite values; joints of people may be NaN.

    :param name: of the task, for the error.
    :raises FloatingPointError: there is such a value.
    """
    for f in fields(prediction):
        values = getattr(prediction, f.name)
        if isinstance(values, np.ndarray) and not np.isfinite(values.sum(dtype=np.float64)):
            raise FloatingPointError(
                f'the prediction {name} has {f.name} that are not finite; check the checkpoint'
            )


class Grid(NamedTuple):
    """
    Grid of a raw output over its image.

    :ivar height: height of the image, pixels.
    :ivar width: width of the image, pixels.
    :ivar cell_x_px: width of a cell in pixels of the image.
    :ivar cell_y_px: height of a cell.
    """

    height: int
    width: int
    cell_x_px: float
    cell_y_px: float


Prediction = DepthMap | DisparityMap | NormalMap | LabelMap | Matte | Poses

# A batch of training or evaluation data: float32 tensors by name. Maps are (B, C, H, W), all with
# the same H, W:
#   image       3 channels, RGB in -1..1
#   depth_m     1 channel, metres along +z, NaN unknown, +Inf beyond the range (sky)
#   normals     3 channels, unit vectors in the optical frame, (0, 0, 0) unknown
#   labels      1 channel, class ids, 255 unknown
#   foreground  1 channel, fraction of the pixel covered by objects and people, 0..1, NaN unknown
#   matte       1 channel, fraction of the pixel covered by people, 0..1, NaN unknown
# Tensors of people:
#   joints      (B, P, 17, 3): u and v in pixels of the maps, and COCO's flag: 0 not labelled,
#               1 occluded, 2 visible. In addition to COCO, -1 is a joint at u, v outside the
#               image; metrics treat it as 0. Unused rows are zeros.
#   bodies      (1, Q, 6), for metrics, if outlines are known: left, top, width and height of the
#               box in pixels, area of the outline in square pixels, and 1 for a crowd. First the
#               P people of joints, then people without labelled joints and crowds.
Sample: TypeAlias = 'dict[str, Tensor]'
