"""Scale and shift from relative to metric depth: one pair for an image, or a coarse grid."""

from __future__ import annotations

from dataclasses import dataclass
import math
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sd_perception_ros.metric_depth.robust_fit import sample_bilinear
from sd_perception_ros.types import Float

Double = NDArray[np.float64]


@dataclass(frozen=True)
class ScaleShift:
    """
    Linear map: scale * relative + shift is depth in metres or, if `inverse`, 1 / depth in 1 / m.

    :raises ValueError: the scale is not positive, or a value is not finite.
    """

    scale: float
    shift: float
    inverse: bool = False

    def __post_init__(self) -> None:
        """Check the values."""
        if not (self.scale > 0 and math.isfinite(self.scale) and math.isfinite(self.shift)):
            raise ValueError(
                'a metric scale must be positive and finite and its shift finite, got '
                f'scale {self.scale} and shift {self.shift}'
            )

    def depth_m(self, relative: Double) -> Double:
        """Return the metric depth of relative values; +Inf where 1 / depth is not positive."""
        return reciprocal_if(self.inverse, self.scale * relative + self.shift)


@dataclass(frozen=True)
class Alignment:
    """
    Scale and shift of an image, on a coarse grid of cells that cover it; (1, 1) if uniform.

    :ivar scale: (h, w) float32.
    :ivar shift: (h, w) float32.
    :ivar inverse: whether scale and shift give 1 / depth.
    """

    scale: Float
    shift: Float
    inverse: bool

    @classmethod
    def uniform(cls, line: ScaleShift) -> Alignment:
        """Use one scale and shift for the whole image."""
        scale, shift = (np.full((1, 1), value, np.float32) for value in (line.scale, line.shift))
        return cls(scale, shift, line.inverse)

    def depth_m(self, relative: Double, positions: Double) -> Double:
        """
        Return the metric depth of single pixels; +Inf where 1 / depth is not positive.

        :param relative: (N,) relative depth or disparity.
        :param positions: (N, 2) row and column, as fractions of the image's height and width.
        """
        scale, shift = (sample_bilinear(grid, positions) for grid in (self.scale, self.shift))
        return reciprocal_if(self.inverse, scale * relative + shift)


def to_metres(
    relative: Float,
    alignment: Alignment,
    min_range_m: float = 0.0,
    max_range_m: float = math.inf,
) -> Float:
    """
    Apply scale and shift, and mark values out of range as in REP 117.

    Relative values are saturated at 0 and 1: the nearest and farthest values are bounds, not
    distances. Published as distances they would be walls that do not exist.

    :param relative: (H, W) float32 of 0..1, NaN where unknown.
    :returns: (H, W) float32 metres along +z, not clipped. -Inf: the nearest value, nearer than
        `min_range_m`, or not in front of the camera. +Inf: farther than `max_range_m`. NaN:
        unknown, also the farthest value unless it is beyond `max_range_m`.
    """
    depth_m = relative * _upsample(alignment.scale, relative)
    depth_m += _upsample(alignment.shift, relative)
    far_end, near_end = relative >= 1, relative <= 0
    if alignment.inverse:
        far_end, near_end = near_end, far_end
        depth_m = reciprocal_if(True, depth_m)
    too_far = depth_m > max_range_m
    too_near = near_end | (depth_m <= 0) | (depth_m < min_range_m)
    depth_m[far_end] = np.nan
    depth_m[too_far] = np.inf
    depth_m[too_near] = -np.inf
    return depth_m


def reciprocal_if(inverse: bool, values: NDArray[Any]) -> NDArray[Any]:
    """Convert depth to 1 / depth or back, if `inverse`; +Inf for values that are not positive."""
    if not inverse:
        return values
    with np.errstate(divide='ignore'):
        reciprocal: NDArray[Any] = np.reciprocal(np.maximum(values, 0))
    return reciprocal


def _upsample(grid: Float, image: Float) -> Float:
    """Resize an (h, w) grid to the size of an image; a (1, 1) grid stays as it is."""
    if grid.size == 1:
        return grid
    size = (image.shape[1], image.shape[0])
    return np.asarray(cv2.resize(grid, size, interpolation=cv2.INTER_LINEAR), np.float32)
