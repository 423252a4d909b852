"""What is known in metres about a picture: pixels whose depth a sensor or a person tells."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sd_perception_ros.geometry.pinhole import project, ray_slopes, Transform
from sd_perception_ros.skeleton import INDEX
from sd_perception_ros.types import Camera, Float, Poses

Double = NDArray[np.float64]
Index = NDArray[np.intp]

# More references than this make no scale better, only slower.
MOST = 4000
_NEAREST_M = 0.05
# A standing person's eyes are 0.936 of the stature above the ground, the ankles 0.039 (Drillis and
# Contini, 1966).
_EYES_TO_ANKLES = 0.936 - 0.039
_EYES = (INDEX['left_eye'], INDEX['right_eye'])
_ANKLES = (INDEX['left_ankle'], INDEX['right_ankle'])
_LEAST_DROP_PX, _MOST_ASIDE = 20.0, 0.2


@dataclass(frozen=True)
class References:
    """
    Pixels whose depth is known.

    :ivar rows: (N,) of the picture, 0 .. H - 1; so are the columns, 0 .. W - 1.
    :ivar depth_m: (N,) float32, positive and finite, along +z of the optical frame.
    """

    rows: Index
    columns: Index
    depth_m: Float

    def __len__(self) -> int:
        """Count them."""
        return len(self.rows)

    def places(self, height: int, width: int) -> Double:
        """Return the pixels' centres as shares of the picture's height and width, (N, 2)."""
        return np.stack([(self.rows + 0.5) / height, (self.columns + 0.5) / width], axis=1)


def from_depth(depth_m: Float, most: int = MOST) -> References:
    """
    Take the pixels of a depth image of this picture's size and view; evenly where they are many.

    :param depth_m: (H, W); what is not finite or not positive is unknown.
    """
    width = depth_m.shape[1]
    known = np.flatnonzero(np.isfinite(depth_m) & (depth_m > _NEAREST_M))
    if len(known) > most:
        # One at random of each stretch: a fixed stride would pick the same columns in all rows.
        places = np.arange(most) + np.random.default_rng(0).random(most)
        known = known[(places * (len(known) / most)).astype(np.intp)]
    rows, columns = np.divmod(known, width)
    return References(rows, columns, depth_m.ravel()[known].astype(np.float32))


def from_points(points: Float, camera: Camera, most: int = MOST) -> References:
    """
    Project points into the picture; those behind the camera or beside the picture are left out.

    :param points: (N, 3) in the camera's optical frame, NaN where unknown.
    """
    points = points[np.isfinite(points).all(-1)]
    points = points[points[:, 2] > _NEAREST_M]
    uv = np.round(project(points, camera)).astype(np.intp)
    inside = (uv >= 0).all(1) & (uv[:, 0] < camera.width) & (uv[:, 1] < camera.height)
    chosen = np.flatnonzero(inside)
    if len(chosen) > most:
        chosen = chosen[np.linspace(0, len(chosen) - 1, most).astype(np.intp)]
    return References(uv[chosen, 1], uv[chosen, 0], points[chosen, 2].astype(np.float32))


def from_other_depth(depth_m: Float, own: Camera, camera: Camera) -> References:
    """
    Take the pixels of a depth image of another size or lens, taken from the same place.

    :param own: intrinsics of the depth image; both cameras share their optical frame.
    """
    chosen = from_depth(depth_m)
    z = chosen.depth_m
    x, y = ray_slopes(chosen.columns, chosen.rows, own)
    return from_points(np.stack([x * z, y * z, z], axis=1), camera)


def from_scan(
    ranges_m: Float, angles_rad: Float, optical_from_scan: Transform, camera: Camera
) -> References:
    """
    Take the beams of a planar laser scan that end in the picture.

    :param ranges_m: (N,); what is not finite or not positive is unknown.
    :param angles_rad: (N,) around +z of the scan's frame, from its +x.
    """
    known = np.isfinite(ranges_m) & (ranges_m > 0)
    r, angle = ranges_m[known], angles_rad[known]
    points = np.stack([r * np.cos(angle), r * np.sin(angle), np.zeros_like(r)], axis=1)
    return from_points(optical_from_scan.apply(points).astype(np.float32), camera)


def from_people(poses: Poses, camera: Camera, stature_m: float) -> References:
    """
    Take upright people as reference: they are as far as their stature in pixels says.

    Only who shows eyes and ankles and stands upright counts. A child, or somebody on a step, is
    taken for an adult who is farther away.

    :returns: one for each such person, at the middle between eyes and ankles.
    """
    found = []
    for person in poses.people:
        joints = np.where(person.visible[:, None], person.joints[:, :2], np.nan)
        eyes, ankles = (joints[list(pair)].mean(0) for pair in (_EYES, _ANKLES))
        drop_px, aside_px = ankles[1] - eyes[1], abs(ankles[0] - eyes[0])
        u, v = np.round((eyes + ankles) / 2)
        inside = 0 <= u < camera.width and 0 <= v < camera.height
        # What was not seen is NaN, and compares false.
        if inside and drop_px > _LEAST_DROP_PX and aside_px < _MOST_ASIDE * drop_px:
            found.append((v, u, camera.fy * _EYES_TO_ANKLES * stature_m / drop_px))
    rows, columns, depth_m = np.array(found, np.float64).reshape(-1, 3).T
    return References(rows.astype(np.intp), columns.astype(np.intp), depth_m.astype(np.float32))
