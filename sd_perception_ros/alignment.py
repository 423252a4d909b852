"""From relative depth to metres."""

from __future__ import annotations

import math

import numpy as np

from sd_perception_ros.types import Float


def to_metres(
    relative: Float,
    scale_m: float,
    shift_m: float,
    min_range_m: float = 0.0,
    max_range_m: float = math.inf,
) -> Float:
    """
    Apply depth_m = scale_m * relative + shift_m and mark what lies out of range as REP 117 does.

    Relative depth is saturated: exactly 1 is everything from the far end of what the network
    tells apart to the sky, exactly 0 everything nearer than its near end. So these two are no
    distances but bounds: as metres they would be walls that are not there.

    :param relative: (H, W) float32, 0 near .. 1 far, NaN where unknown.
    :param scale_m: metres between relative depth 0 and 1, positive.
    :param shift_m: metres at relative depth 0.
    :returns: (H, W) float32, positive metres along +z; -Inf where `relative` is 0 or the result
        is nearer than `min_range_m` or not in front of the camera; +Inf where `relative` is 1 or
        the result farther than `max_range_m`; NaN unknown. Nothing is clipped.
    :raises ValueError: a scale that is not positive and finite, or a shift that is not finite.
    """
    if not (scale_m > 0 and math.isfinite(scale_m) and math.isfinite(shift_m)):
        raise ValueError(
            f'a metric scale must be positive and finite and its shift finite, got '
            f'scale {scale_m} m and shift {shift_m} m'
        )
    depth_m = relative.astype(np.float32) * np.float32(scale_m) + np.float32(shift_m)
    too_near = (relative <= 0) | (depth_m <= 0) | (depth_m < min_range_m)
    too_far = (relative >= 1) | (depth_m > max_range_m)
    depth_m[too_far] = np.inf
    depth_m[too_near] = -np.inf
    return depth_m
