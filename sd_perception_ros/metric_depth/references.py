"""References: pixels of an image whose metric depth is known from a sensor or a person."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sd_perception_ros.geometry.pinhole import project, ray_slopes, Transform
from sd_perception_ros.skeleton import INDEX
from sd_perception_ros.types import Camera, Float, Poses

Double = NDArray[np.float64]
Index = NDArray[np.intp]

# More references do not improve the fit; they only take time.
MAX_REFERENCES = 4000
_MIN_DEPTH_M = 0.05
# Heights of a standing person, as fractions of the stature: eyes 0.936, ankles 0.039 (Drillis
# and Contini, 1966).
_EYES_TO_ANKLES = 0.936 - 0.039
_EYES = (INDEX['left_eye'], INDEX['right_eye'])
_ANKLES = (INDEX['left_ankle'], INDEX['right_ankle'])
# An upright person: least height from ankles to eyes, and largest horizontal offset as a fraction
# of that height.
_MIN_HEIGHT_PX, _MAX_LEAN = 20.0, 0.2


@dataclass(frozen=True)
class References:
    """
    Pixels of known depth.

    :ivar rows: (N,) 0 .. H - 1.
    :ivar columns: (N,) 0 .. W - 1.
    :ivar depth_m: (N,) float32, positive and finite, along +z of the optical frame.
    """

    rows: Index
    columns: Index
    depth_m: Float

    def __len__(self) -> int:
        """Return the number of pixels."""
        return len(self.rows)

    def normalized_positions(self, height: int, width: int) -> Double:
        """Return the pixel centres, (N, 2): row / height and column / width."""
        return np.stack([(self.rows + 0.5) / height, (self.columns + 0.5) / width], axis=1)


def from_depth(depth_m: Float, max_count: int = MAX_REFERENCES) -> References:
    """
    Take pixels of a depth image with the size and the view of the camera image.

    :param depth_m: (H, W) metres; values that are not finite or below 5 cm are unknown.
    :param max_count: if there are more, take a stratified random sample; the same depth image
        always gives the same sample.
    """
    width = depth_m.shape[1]
    valid = np.flatnonzero(np.isfinite(depth_m) & (depth_m > _MIN_DEPTH_M))
    if len(valid) > max_count:
        # One random pixel of each interval: a fixed stride would hit the same columns in all rows.
        index = np.arange(max_count) + np.random.default_rng(0).random(max_count)
        valid = valid[(index * (len(valid) / max_count)).astype(np.intp)]
    rows, columns = np.divmod(valid, width)
    return References(rows, columns, depth_m.ravel()[valid].astype(np.float32))


def from_points(points: Float, camera: Camera, max_count: int = MAX_REFERENCES) -> References:
    """
    Project points into the image; points behind the camera or outside the image are left out.

    :param points: (N, 3) metres in the camera's optical frame, NaN where unknown.
    :param max_count: if there are more, take evenly spaced ones.
    """
    points = points[np.isfinite(points).all(-1)]
    points = points[points[:, 2] > _MIN_DEPTH_M]
    uv = np.round(project(points, camera)).astype(np.intp)
    inside = (uv >= 0).all(1) & (uv[:, 0] < camera.width) & (uv[:, 1] < camera.height)
    index = np.flatnonzero(inside)
    if len(index) > max_count:
        index = index[np.linspace(0, len(index) - 1, max_count).astype(np.intp)]
    return References(uv[index, 1], uv[index, 0], points[index, 2].astype(np.float32))


def from_depth_camera(sample: References, depth_camera: Camera, camera: Camera) -> References:
    """
    Project pixels of a depth image with other intrinsics than the camera image into the latter.

    :param sample: pixels of the depth image, see `from_depth`.
    :param depth_camera: intrinsics of the depth image; both images share one optical frame.
    """
    z = sample.depth_m
    x, y = ray_slopes(sample.columns, sample.rows, depth_camera)
    return from_points(np.stack([x * z, y * z, z], axis=1), camera)


def from_scan(
    ranges_m: Float, angles_rad: Float, optical_from_scan: Transform, camera: Camera
) -> References:
    """
    Take the beams of a planar laser scan whose end points lie in the image.

    :param ranges_m: (N,); values that are not finite or not positive are unknown.
    :param angles_rad: (N,) about +z of the scan's frame, from its +x.
    """
    valid = np.isfinite(ranges_m) & (ranges_m > 0)
    r, angle = ranges_m[valid], angles_rad[valid]
    points = np.stack([r * np.cos(angle), r * np.sin(angle), np.zeros_like(r)], axis=1)
    return from_points(optical_from_scan.apply(points).astype(np.float32), camera)


def from_people(poses: Poses, camera: Camera, stature_m: float) -> References:
    """
    Compute the depth of upright people from their height in pixels.

    People are used if both eyes and both ankles are visible. All have the same stature: the depth
    of a child is overestimated.

    :returns: one reference for each such person, midway between eyes and ankles.
    """
    people = []
    for person in poses.people:
        joints = np.where(person.visible[:, None], person.joints[:, :2], np.nan)
        eyes, ankles = (joints[list(pair)].mean(0) for pair in (_EYES, _ANKLES))
        height_px, lean_px = ankles[1] - eyes[1], abs(ankles[0] - eyes[0])
        u, v = np.round((eyes + ankles) / 2)
        inside = 0 <= u < camera.width and 0 <= v < camera.height
        # Joints that are not visible are NaN: these comparisons are false.
        if inside and height_px > _MIN_HEIGHT_PX and lean_px < _MAX_LEAN * height_px:
            people.append((v, u, camera.fy * _EYES_TO_ANKLES * stature_m / height_px))
    rows, columns, depth_m = np.array(people, np.float64).reshape(-1, 3).T
    return References(rows.astype(np.intp), columns.astype(np.intp), depth_m.astype(np.float32))
