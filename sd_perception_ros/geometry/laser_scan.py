"""From a depth map to the ranges of a planar laser scanner."""

from __future__ import annotations

from dataclasses import dataclass
import math

import numpy as np

from sd_perception_ros.geometry.pinhole import back_project, Transform
from sd_perception_ros.types import Camera, Float

# Points of one beam are counted in steps of range.
_STEP_M = 0.05


@dataclass(frozen=True)
class ScanShape:
    """
    What a scan covers.

    :ivar min_angle_rad: of the first beam, around +z from +x; so is `max_angle_rad` of the last.
    :ivar increment_rad: between beams.
    :ivar min_height_m: points below are ground; so are those above `max_height_m` overhead.
    :ivar min_points: fewer points in a beam and a step of range are noise.
    :ivar margin: a beam is free where all of it is farther than the range by this share.
    """

    min_angle_rad: float
    max_angle_rad: float
    increment_rad: float
    min_range_m: float
    max_range_m: float
    min_height_m: float
    max_height_m: float
    min_points: int = 1
    margin: float = 0.0

    @property
    def beams(self) -> int:
        """Count the beams."""
        return (
            math.floor((self.max_angle_rad - self.min_angle_rad) / self.increment_rad + 1e-6) + 1
        )


def scan_ranges(
    depth_m: Float, camera: Camera, place: Transform, shape: ScanShape, stride: int = 1
) -> Float:
    """
    Return the nearest range in each beam, as REP 117 does.

    A beam is +Inf, nothing in range, only where the picture shows all of its height band out to
    the full range and everything there is farther; -Inf where something in the band is too near
    to measure; NaN where the picture does not tell, as beside it, and where the band is hidden by
    the ground or only seen up to it.

    :param depth_m: (H, W) float32 metres; -Inf too near, +Inf out of range, NaN unknown.
    :param place: from the optical frame to the scan's, x forward, y left, z up.
    :param stride: read every n-th row and column.
    :returns: (beams,) float32 metres.
    """
    ones = np.ones_like(depth_m)
    ray = place.rotation @ back_project(ones, camera, stride).reshape(-1, 3).T
    depth = depth_m[::stride, ::stride].ravel().astype(np.float64)
    origin = place.translation
    seen = np.isfinite(depth)
    x, y, z = ray * np.where(seen, depth, np.nan) + origin[:, None]
    beam = _beams(np.arctan2(np.where(seen, y, ray[1]), np.where(seen, x, ray[0])), shape)
    ranges_m = np.hypot(x, y)
    in_band = seen & (z >= shape.min_height_m) & (z <= shape.max_height_m) & (beam >= 0)
    hits = in_band & (ranges_m >= shape.min_range_m) & (ranges_m <= shape.max_range_m)
    made = _nearest(beam[hits], ranges_m[hits], shape)
    # Only a ray that is still in the band at the end of the range tells of all of it.
    level = np.hypot(ray[0], ray[1])
    end_z = origin[2] + ray[2] / np.maximum(level, 1e-9) * shape.max_range_m
    through = (beam >= 0) & (end_z >= shape.min_height_m) & (end_z <= shape.max_height_m)
    beyond = np.isposinf(depth) | (ranges_m > shape.max_range_m * (1 + shape.margin))
    total = np.bincount(beam[through], minlength=shape.beams)
    free = np.bincount(beam[through & beyond], minlength=shape.beams)
    near = np.bincount(beam[through & np.isneginf(depth)], minlength=shape.beams)
    empty = np.isnan(made)
    made[empty & (total > 0) & (free == total)] = np.inf
    made[near > 0] = -np.inf
    return made


def _beams(angle_rad: np.ndarray, shape: ScanShape) -> np.ndarray:
    """Return the number of each angle's beam, -1 outside of the scan."""
    beam = np.round((angle_rad - shape.min_angle_rad) / shape.increment_rad).astype(np.intp)
    return np.where((beam >= 0) & (beam < shape.beams), beam, -1)


def _nearest(beam: np.ndarray, ranges_m: np.ndarray, shape: ScanShape) -> Float:
    """Return the mean range of the nearest step of each beam with enough points; else NaN."""
    steps = math.ceil(shape.max_range_m / _STEP_M) + 1
    cell = beam * steps + (ranges_m / _STEP_M).astype(np.intp)
    size = shape.beams * steps
    counts = np.bincount(cell, minlength=size).reshape(shape.beams, steps)
    sums = np.bincount(cell, ranges_m, minlength=size).reshape(shape.beams, steps)
    enough = counts >= shape.min_points
    first = enough.argmax(1)
    rows = np.arange(shape.beams)
    found = sums[rows, first] / np.maximum(counts[rows, first], 1)
    return np.where(enough.any(1), found, np.nan).astype(np.float32)
