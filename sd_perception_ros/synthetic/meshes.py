"""Triangle meshes, materials, and simple solids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class Material:
    """
    The appearance of a surface.

    :ivar color: linear RGB, 0..1; multiplied with the texture if there is one.
    :ivar texture: (h, w, 4) uint8 sRGB with alpha, repeated over u and v; or None.
    :ivar gloss: 0 matt .. 1 strong highlights.
    :ivar emission: linear RGB that the surface emits.
    """

    color: tuple[float, float, float] = (0.6, 0.6, 0.6)
    texture: NDArray[np.uint8] | None = None
    gloss: float = 0.0
    emission: tuple[float, float, float] = (0.0, 0.0, 0.0)


@dataclass(frozen=True, eq=False)
class Mesh:
    """
    Triangles in metres: x right, y away from the front side, z up, standing on z = 0.

    :ivar points: (N, 3, 3) corners.
    :ivar uv: (N, 3, 2) texture coordinates.
    :ivar normals: (N, 3, 3) unit corner normals; their sign is not reliable.
    :ivar material: (N,) index into `materials`.
    """

    points: Float
    uv: Float
    normals: Float
    material: NDArray[np.int32]
    materials: tuple[Material, ...]

    def placed(self, angle_rad: float, at: Sequence[float] | Float) -> Mesh:
        """Return it turned about z (counter-clockwise seen from above), then moved."""
        turn = about_z(angle_rad)
        points = self.points @ turn.T + np.asarray(at, np.float32)
        return replace(self, points=points, normals=self.normals @ turn.T)

    def painted(self, materials: Sequence[Material]) -> Mesh:
        """Return it with other materials, in the same order."""
        return replace(self, materials=tuple(materials))


def about_z(angle_rad: float) -> Float:
    """Return the (3, 3) rotation about z, counter-clockwise seen from above."""
    cosine, sine = np.cos(angle_rad), np.sin(angle_rad)
    return np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]], np.float32)


def merged(meshes: Sequence[Mesh]) -> Mesh:
    """Join meshes into one."""
    starts = np.cumsum([0] + [len(m.materials) for m in meshes])
    return Mesh(
        points=np.concatenate([m.points for m in meshes]),
        uv=np.concatenate([m.uv for m in meshes]),
        normals=np.concatenate([m.normals for m in meshes]),
        material=np.concatenate([m.material + s for m, s in zip(meshes, starts, strict=False)]),
        materials=tuple(material for m in meshes for material in m.materials),
    )


def face_normals(points: Float) -> Float:
    """(N, 3, 3) corners -> (N, 3) unit normals by the right-hand rule; 0 for slivers."""
    normals = np.cross(points[:, 1] - points[:, 0], points[:, 2] - points[:, 0])
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    return (normals / np.maximum(length, 1e-12)).astype(np.float32)


def quad(corners: Any, material: Material, tile_m: float = 1.0) -> Mesh:
    """
    Build a flat rectangle.

    :param corners: four points in order; u runs from the first to the second.
    :param tile_m: side of one repetition of the texture.
    """
    corners = np.asarray(corners, np.float32)
    width = np.linalg.norm(corners[1] - corners[0]) / tile_m
    height = np.linalg.norm(corners[3] - corners[0]) / tile_m
    uv = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    order = np.array([[0, 1, 2], [0, 2, 3]])
    points = corners[order]
    normals = np.repeat(face_normals(points)[:, None], 3, axis=1)
    return Mesh(points, uv[order], normals, np.zeros(2, np.int32), (material,))


def box(size_m: Sequence[float], material: Material, at: Sequence[float] = (0, 0, 0)) -> Mesh:
    """Build a box whose lower side is centred on `at`."""
    x, y, z = size_m[0] / 2, size_m[1] / 2, size_m[2]
    low = [(-x, -y, 0), (x, -y, 0), (x, y, 0), (-x, y, 0)]
    high = [(a, b, z) for a, b, _ in low]
    sides = [[low[i], low[(i + 1) % 4], high[(i + 1) % 4], high[i]] for i in range(4)]
    faces = [quad(side, material) for side in [*sides, high, low[::-1]]]
    mesh = merged(faces)
    mesh = replace(mesh, material=np.zeros(12, np.int32), materials=(material,))
    return mesh.placed(0.0, at)


def cylinder(
    radius_m: float,
    height_m: float,
    material: Material,
    at: Sequence[float] = (0, 0, 0),
    top_radius_m: float | None = None,
    sides: int = 24,
) -> Mesh:
    """Build an upright cylinder, or a cone frustum, whose lower side is centred on `at`."""
    top = radius_m if top_radius_m is None else top_radius_m
    angle = np.linspace(0, 2 * np.pi, sides + 1)
    ring = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    low = np.c_[ring * radius_m, np.zeros(sides + 1)]
    high = np.c_[ring * top, np.full(sides + 1, height_m)]
    a, b, c, d = low[:-1], low[1:], high[1:], high[:-1]
    middle_low, middle_high = np.zeros_like(a), np.tile([0, 0, height_m], (sides, 1))
    triangles = [(a, b, c), (a, c, d), (b, a, middle_low), (d, c, middle_high)]
    points = np.concatenate([np.stack(t, axis=1) for t in triangles]).astype(np.float32)
    outward = np.c_[ring, np.full(sides + 1, (radius_m - top) / height_m)]
    outward /= np.linalg.norm(outward, axis=1, keepdims=True)
    a, b = outward[:-1], outward[1:]
    down, up = np.tile([0, 0, -1], (sides, 3, 1)), np.tile([0, 0, 1], (sides, 3, 1))
    smooth = [np.stack(t, axis=1) for t in ((a, b, b), (a, b, a))]
    normals = np.concatenate([*smooth, down, up]).astype(np.float32)
    uv = np.ascontiguousarray(points[..., :2] + points[..., 2:])
    mesh = Mesh(points, uv, normals, np.zeros(len(points), np.int32), (material,))
    return mesh.placed(0.0, at)


def limb(
    start: Sequence[float] | Float,
    end: Sequence[float] | Float,
    radius_m: float,
    material: Material,
    end_radius_m: float | None = None,
) -> Mesh:
    """Build a cylinder, or a cone frustum, from one point to another."""
    a, b = np.asarray(start, np.float32), np.asarray(end, np.float32)
    along = b - a
    length_m = float(np.linalg.norm(along))
    upright = cylinder(radius_m, length_m, material, top_radius_m=end_radius_m, sides=12)
    z = along / length_m
    x = np.cross(z, [1, 0, 0] if abs(z[0]) < 0.7 else [0, 1, 0])
    x /= np.linalg.norm(x)
    turn = np.stack([x, np.cross(z, x), z], axis=1).astype(np.float32)
    return replace(upright, points=upright.points @ turn.T + a, normals=upright.normals @ turn.T)
