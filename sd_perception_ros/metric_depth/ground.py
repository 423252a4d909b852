"""The ground as a ruler: a camera that knows its height knows how far the floor is."""

from __future__ import annotations

from dataclasses import dataclass
import math

import numpy as np
from numpy.typing import NDArray

from sd_perception_ros.geometry.pinhole import rays
from sd_perception_ros.metric_depth.references import References
from sd_perception_ros.types import Camera, Float

Bool = NDArray[np.bool_]

# Pixels that are looked at, and directions that are tried.
_PIXELS, _HYPOTHESES = 3000, 64
# How far normals may lean away from where up is expected, and from one another.
_LEAN_DEG, _AGREE_DEG = 30.0, 12.0
# The sine of the flattest ray whose depth a degree of error does not change by a tenth.
_FLATTEST = 0.15
# This much farther than the ground is below it.
_BELOW = 1.3


@dataclass(frozen=True)
class Ground:
    """
    The plane below a camera.

    :ivar up: (3,) unit vector in the optical frame.
    :ivar height_m: of the camera above the plane.
    :ivar references: pixels that show it, and their depth.
    """

    up: Float
    height_m: float
    references: References

    def share_below(self, depth_m: Float, camera: Camera) -> float:
        """
        Return the share of the pixels looking down that lie clearly below the plane.

        Where many do, it was no ground: a table, a shelf, a stage.
        """
        rows, columns = _some_pixels(camera)
        seen = rays(rows, columns, camera)
        down = _looks_down(seen, self.up)
        limit = _BELOW * self.height_m / -(seen[down] @ self.up)
        found = depth_m[rows[down], columns[down]]
        return float((found > limit).mean()) if len(found) else 0.0


def up_from_pitch(pitch_deg: float) -> Float:
    """Return the upward unit vector, (3,), in the optical frame of a camera tilted downwards."""
    pitch = math.radians(pitch_deg)
    return np.array([0, -math.cos(pitch), -math.sin(pitch)], np.float32)


def find_ground(
    normals: Float, camera: Camera, height_m: float, pitch_deg: float, floor: Bool | None = None
) -> Ground:
    """
    Find the ground by the normals that most pixels that look like it share (RANSAC).

    A ray r meets the ground at the depth height / -(r . up).

    :param normals: (H, W, 3) unit vectors in the optical frame, as predicted.
    :param height_m: of the camera above the ground.
    :param pitch_deg: how far the camera looks down; normals may lean 30 degrees from that.
    :param floor: (H, W) where ground may be, as a segmentation says; None: anywhere.
    """
    rows, columns = _some_pixels(camera)
    seen, vectors = rays(rows, columns, camera), normals[rows, columns].astype(np.float32)
    up = up_from_pitch(pitch_deg)
    likely = (vectors @ up > math.cos(math.radians(_LEAN_DEG))) & _looks_down(seen, up)
    if floor is not None:
        likely &= floor[rows, columns]
    if likely.any():
        up = _common(vectors[likely])
    ground = likely & (vectors @ up > math.cos(math.radians(_AGREE_DEG))) & _looks_down(seen, up)
    depth_m = (height_m / -(seen[ground] @ up)).astype(np.float32)
    return Ground(up, height_m, References(rows[ground], columns[ground], depth_m))


def _common(vectors: Float) -> Float:
    """Return the mean of the most unit vectors that agree."""
    near = math.cos(math.radians(_AGREE_DEG))
    tried = vectors[np.random.default_rng(0).integers(0, len(vectors), _HYPOTHESES)]
    up: Float = tried[(tried @ vectors.T > near).sum(1).argmax()]
    for _ in range(2):
        up = vectors[vectors @ up > near].mean(0)
        up /= np.linalg.norm(up)
    return up


def _some_pixels(camera: Camera) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    step = max(round(math.sqrt(camera.width * camera.height / _PIXELS)), 1)
    rows, columns = np.mgrid[0 : camera.height : step, 0 : camera.width : step].reshape(2, -1)
    return rows, columns


def _looks_down(seen: Float, up: Float) -> Bool:
    down: Bool = seen @ up < -_FLATTEST * np.linalg.norm(seen, axis=-1)
    return down
