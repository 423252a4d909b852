"""What makes relative depth metres: a scale and a shift, of the whole picture or of its parts."""

from __future__ import annotations

from dataclasses import dataclass
import math
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sd_perception_ros.metric_depth.robust_fit import sampled
from sd_perception_ros.types import Float

Double = NDArray[np.float64]


@dataclass(frozen=True)
class ScaleShift:
    """
    A line: scale * relative + shift is depth in metres or, where `inverse`, 1 / depth in 1 / m.

    :raises ValueError: a scale that would turn near and far, or is no number.
    """

    scale: float
    shift: float
    inverse: bool = False

    def __post_init__(self) -> None:
        """Refuse what is no scale."""
        if not (self.scale > 0 and math.isfinite(self.scale) and math.isfinite(self.shift)):
            raise ValueError(
                'a metric scale must be positive and finite and its shift finite, got '
                f'scale {self.scale} and shift {self.shift}'
            )

    def depth_m(self, relative: Double) -> Double:
        """Return metres at some relative values; +Inf where 1 / depth is not positive."""
        return inverted(self.scale * relative + self.shift, self.inverse)


@dataclass(frozen=True)
class Alignment:
    """
    Scale and shift over the picture: one of each, or one for each cell of a coarse grid.

    :ivar scale: (h, w) float32, on cells that cover the picture; so is `shift`.
    :ivar inverse: whether the line gives 1 / depth.
    """

    scale: Float
    shift: Float
    inverse: bool

    @classmethod
    def everywhere(cls, line: ScaleShift) -> Alignment:
        """Use one scale and shift for the whole picture."""
        scale, shift = (np.full((1, 1), value, np.float32) for value in (line.scale, line.shift))
        return cls(scale, shift, line.inverse)

    def depth_m(self, relative: Double, places: Double) -> Double:
        """
        Return metres at single pixels; +Inf where 1 / depth is not positive.

        :param relative: (N,) values.
        :param places: (N, 2) shares of the picture's height and width.
        """
        line = sampled(self.scale, places) * relative + sampled(self.shift, places)
        return inverted(line, self.inverse)


def to_metres(
    relative: Float,
    alignment: Alignment,
    min_range_m: float = 0.0,
    max_range_m: float = math.inf,
) -> Float:
    """
    Apply scale and shift, and mark what lies out of range as REP 117 does.

    Relative values are saturated: their far end is everything from there to the sky, their near
    end everything nearer. So these two are no distances but bounds: as metres they would be walls
    that are not there. The far end is +Inf, nothing in range, only where even the bound is out of
    range; elsewhere it is unknown.

    :param relative: (H, W) float32 of 0..1, NaN where unknown.
    :returns: (H, W) float32, positive metres along +z; -Inf at the near end and where the result
        is nearer than `min_range_m` or not in front of the camera; +Inf where it is farther than
        `max_range_m`; NaN unknown. Nothing is clipped.
    """
    depth_m = relative * _over(alignment.scale, relative)
    depth_m += _over(alignment.shift, relative)
    far_end, near_end = relative >= 1, relative <= 0
    if alignment.inverse:
        far_end, near_end = near_end, far_end
        depth_m = inverted(depth_m, inverse=True)
    too_far = depth_m > max_range_m
    too_near = near_end | (depth_m <= 0) | (depth_m < min_range_m)
    depth_m[far_end] = np.nan
    depth_m[too_far] = np.inf
    depth_m[too_near] = -np.inf
    return depth_m


def inverted(line: NDArray[Any], inverse: bool) -> NDArray[Any]:
    """Turn depth into 1 / depth or back, if so asked; not positive is farther than anything."""
    if not inverse:
        return line
    with np.errstate(divide='ignore'):
        depth_m: NDArray[Any] = np.reciprocal(np.maximum(line, 0))
    return depth_m


def _over(field: Float, picture: Float) -> Float:
    """Spread an (h, w) field over a picture."""
    if field.size == 1:
        return field
    size = (picture.shape[1], picture.shape[0])
    return np.asarray(cv2.resize(field, size, interpolation=cv2.INTER_LINEAR), np.float32)
