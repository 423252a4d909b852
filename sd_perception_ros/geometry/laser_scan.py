"""Ranges of a virtual planar laser scanner from a depth map."""

from __future__ import annotations

from dataclasses import dataclass
import math

import numpy as np

from sd_perception_ros.geometry.pinhole import back_project, Transform
from sd_perception_ros.types import Camera, Float

# Width of the range bins in which the points of a beam are counted.
_BIN_M = 0.05


@dataclass(frozen=True)
class ScanGeometry:
    """
    Field of view of a scan, and which points are obstacles.

    :ivar min_angle_rad: angle of the first beam, about +z from +x.
    :ivar max_angle_rad: angle of the last beam.
    :ivar increment_rad: angle between beams.
    :ivar min_height_m: lower points are ground.
    :ivar max_height_m: higher points are overhead.
    :ivar min_points: fewer points of a beam in one range bin are noise.
    :ivar free_margin: a beam is free if all of its depths exceed `max_range_m` by this fraction.
    """

    min_angle_rad: float
    max_angle_rad: float
    increment_rad: float
    min_range_m: float
    max_range_m: float
    min_height_m: float
    max_height_m: float
    min_points: int = 1
    free_margin: float = 0.0

    @property
    def beams(self) -> int:
        """Return the number of beams."""
        return (
            math.floor((self.max_angle_rad - self.min_angle_rad) / self.increment_rad + 1e-6) + 1
        )


def scan_ranges(
    depth_m: Float,
    camera: Camera,
    scan_from_optical: Transform,
    geometry: ScanGeometry,
    stride: int = 1,
) -> Float:
    """
    Return the range to the nearest obstacle in each beam (REP 117).

    - +Inf: free. The camera sees the whole height band of this beam up to the maximum range, and
      all of it is farther.
    - -Inf: something in the height band is too near to measure.
    - NaN: unknown. The beam is outside the image, or the ground hides its height band.

    :param depth_m: (H, W) float32 metres; -Inf too near, +Inf out of range, NaN unknown.
    :param scan_from_optical: transform to the scan's frame (x forward, y left, z up).
    :param stride: use every n-th row and column.
    :returns: (beams,) float32 metres.
    """
    ones = np.ones_like(depth_m)
    ray = scan_from_optical.rotation @ back_project(ones, camera, stride).reshape(-1, 3).T
    depth = depth_m[::stride, ::stride].ravel().astype(np.float64)
    origin = scan_from_optical.translation
    finite = np.isfinite(depth)
    x, y, z = ray * np.where(finite, depth, np.nan) + origin[:, None]
    angle_rad = np.arctan2(np.where(finite, y, ray[1]), np.where(finite, x, ray[0]))
    beam = _beam_indices(angle_rad, geometry)
    point_ranges_m = np.hypot(x, y)
    in_band = finite & (z >= geometry.min_height_m) & (z <= geometry.max_height_m) & (beam >= 0)
    in_range = (point_ranges_m >= geometry.min_range_m) & (point_ranges_m <= geometry.max_range_m)
    hits = in_band & in_range
    ranges_m = _nearest_ranges(beam[hits], point_ranges_m[hits], geometry)
    # Only rays that are in the height band also at the maximum range can make a beam free.
    horizontal = np.hypot(ray[0], ray[1])
    end_z = origin[2] + ray[2] / np.maximum(horizontal, 1e-9) * geometry.max_range_m
    through = (beam >= 0) & (end_z >= geometry.min_height_m) & (end_z <= geometry.max_height_m)
    free_range_m = geometry.max_range_m * (1 + geometry.free_margin)
    beyond = np.isposinf(depth) | (point_ranges_m > free_range_m)
    total_count = np.bincount(beam[through], minlength=geometry.beams)
    free_count = np.bincount(beam[through & beyond], minlength=geometry.beams)
    near_count = np.bincount(beam[through & np.isneginf(depth)], minlength=geometry.beams)
    is_free = np.isnan(ranges_m) & (total_count > 0) & (free_count == total_count)
    ranges_m[is_free] = np.inf
    ranges_m[near_count > 0] = -np.inf
    return ranges_m


def _beam_indices(angle_rad: np.ndarray, geometry: ScanGeometry) -> np.ndarray:
    """Return the index of the beam at each angle; -1 outside the scan."""
    beam = np.round((angle_rad - geometry.min_angle_rad) / geometry.increment_rad).astype(np.intp)
    return np.where((beam >= 0) & (beam < geometry.beams), beam, -1)


def _nearest_ranges(beam: np.ndarray, ranges_m: np.ndarray, geometry: ScanGeometry) -> Float:
    """Return the mean range of each beam's nearest bin with enough points, else NaN."""
    bins = math.ceil(geometry.max_range_m / _BIN_M) + 1
    index = beam * bins + (ranges_m / _BIN_M).astype(np.intp)
    size = geometry.beams * bins
    counts = np.bincount(index, minlength=size).reshape(geometry.beams, bins)
    sums = np.bincount(index, ranges_m, minlength=size).reshape(geometry.beams, bins)
    enough = counts >= geometry.min_points
    nearest = enough.argmax(1)
    rows = np.arange(geometry.beams)
    means = sums[rows, nearest] / np.maximum(counts[rows, nearest], 1)
    return np.where(enough.any(1), means, np.nan).astype(np.float32)
