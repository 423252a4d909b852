"""Scale from the ground plane, for a camera whose height above the ground is known."""

from __future__ import annotations

from dataclasses import dataclass
import math

import numpy as np
from numpy.typing import NDArray

from sd_perception_ros.geometry.pinhole import rays
from sd_perception_ros.metric_depth.references import References
from sd_perception_ros.types import Camera, Float

Bool = NDArray[np.bool_]

# RANSAC: pixels of a regular grid, and directions tried.
_PIXELS, _HYPOTHESES = 3000, 64
# Largest angle between a ground normal and the expected up direction, and between inliers.
_MAX_TILT_DEG, _INLIER_DEG = 30.0, 12.0
# Sine of the smallest angle between a ray and the ground. At smaller angles, an error of one
# degree would change the depth by more than 10 %.
_MIN_SINE = 0.15
# A pixel lies below the plane if its depth exceeds that of the plane by this factor.
_BELOW_FACTOR = 1.3


@dataclass(frozen=True)
class Ground:
    """
    The ground plane.

    :ivar up: (3,) unit normal of the plane in the optical frame.
    :ivar height_m: height of the camera above the plane.
    :ivar references: pixels of the ground and their depth.
    """

    up: Float
    height_m: float
    references: References

    def share_below(self, depth_m: Float, camera: Camera) -> float:
        """
        Return the fraction of the downward rays that end clearly below the plane.

        A large fraction means that the plane is not the ground but a table or a shelf.
        """
        rows, columns = _pixel_grid(camera)
        ray = rays(rows, columns, camera)
        down = _points_down(ray, self.up)
        limit_m = _BELOW_FACTOR * self.height_m / -(ray[down] @ self.up)
        ray_depth_m = depth_m[rows[down], columns[down]]
        return float((ray_depth_m > limit_m).mean()) if len(ray_depth_m) else 0.0


def up_from_pitch(pitch_deg: float) -> Float:
    """Return the up direction, (3,) unit vector, in the optical frame of a camera pitched down."""
    pitch = math.radians(pitch_deg)
    return np.array([0, -math.cos(pitch), -math.sin(pitch)], np.float32)


def find_ground(
    normals: Float, camera: Camera, height_m: float, pitch_deg: float, floor: Bool | None = None
) -> Ground:
    """
    Find the ground plane from predicted surface normals (RANSAC).

    The depth of the ground along a ray r is height / -(r . up).

    :param normals: (H, W, 3) unit vectors in the optical frame.
    :param height_m: height of the camera above the ground.
    :param pitch_deg: downward pitch of the camera; the ground normal may differ by 30 degrees.
    :param floor: (H, W) mask of possible ground pixels, from segmentation; None: all pixels.
    :returns: the plane; without references if no pixel shows it.
    """
    rows, columns = _pixel_grid(camera)
    ray, vectors = rays(rows, columns, camera), normals[rows, columns].astype(np.float32)
    up = up_from_pitch(pitch_deg)
    candidate = (vectors @ up > math.cos(math.radians(_MAX_TILT_DEG))) & _points_down(ray, up)
    if floor is not None:
        candidate &= floor[rows, columns]
    if candidate.any():
        up = _dominant_direction(vectors[candidate])
    is_inlier = vectors @ up > math.cos(math.radians(_INLIER_DEG))
    ground = candidate & is_inlier & _points_down(ray, up)
    depth_m = (height_m / -(ray[ground] @ up)).astype(np.float32)
    return Ground(up, height_m, References(rows[ground], columns[ground], depth_m))


def _dominant_direction(vectors: Float) -> Float:
    """Return the mean direction of the largest group of (N, 3) unit vectors that agree."""
    min_cosine = math.cos(math.radians(_INLIER_DEG))
    hypotheses = vectors[np.random.default_rng(0).integers(0, len(vectors), _HYPOTHESES)]
    up: Float = hypotheses[(hypotheses @ vectors.T > min_cosine).sum(1).argmax()]
    for _ in range(2):
        up = vectors[vectors @ up > min_cosine].mean(0)
        up /= np.linalg.norm(up)
    return up


def _pixel_grid(camera: Camera) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return rows and columns, (N,) each, of about 3000 pixels on a regular grid."""
    step = max(round(math.sqrt(camera.width * camera.height / _PIXELS)), 1)
    rows, columns = np.mgrid[0 : camera.height : step, 0 : camera.width : step].reshape(2, -1)
    return rows, columns


def _points_down(ray: Float, up: Float) -> Bool:
    """Return which (N, 3) rays meet the ground at a sufficient angle."""
    down: Bool = ray @ up < -_MIN_SINE * np.linalg.norm(ray, axis=-1)
    return down
