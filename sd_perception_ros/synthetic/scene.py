"""Scenes: triangles with labels, lights and a sky, and ray casting."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
import math
from typing import Any, NamedTuple

import cv2
from embreex import rtcore_scene
from embreex.mesh_construction import TriangleMesh
import numpy as np
from numpy.typing import NDArray

from sd_perception_ros.geometry.pinhole import ray_slopes
from sd_perception_ros.synthetic.environments import Environment
from sd_perception_ros.synthetic.meshes import face_normals, Material, merged, Mesh
from sd_perception_ros.types import Camera

Float = NDArray[np.floating[Any]]
Int = NDArray[np.int64]

SKY, FLOOR, WALL, CEILING, FURNITURE, PERSON, OTHER = range(7)  # OTHER: vehicles and plants
SMOOTH_LIMIT_DEG = 35.0  # smooth normals that differ more from the face are wrong: edges of boxes
MAX_SEE_THROUGH = 10  # layers of cut-out texture (leaves) that one ray may pass


@dataclass(frozen=True)
class Light:
    """
    A lamp (a cube of light) or the sun.

    :ivar position_m: (3,) world position of a lamp; for the sun the unit direction towards it.
    :ivar color: (3,) linear; at 1 m from a lamp, or everywhere from the sun.
    :ivar radius_m: half the cube's side; for the sun the tangent of its angular radius.
    """

    position_m: Float
    color: Float
    radius_m: float
    is_sun: bool = False


@dataclass(frozen=True)
class View:
    """
    The pose of a camera; the world has z up.

    :ivar position_m: (3,) world position of the optical centre.
    :ivar yaw_deg: heading, clockwise from world +y seen from above.
    :ivar pitch_deg: positive looks down.
    :ivar roll_deg: positive turns the camera clockwise about its own forward axis.
    """

    position_m: Float
    yaw_deg: float
    pitch_deg: float
    roll_deg: float
    camera: Camera

    def rotation(self) -> Float:
        """Return (3, 3): columns are the optical axes right, down and forward in the world."""
        yaw, pitch, roll = (math.radians(a) for a in (self.yaw_deg, self.pitch_deg, self.roll_deg))
        forward = np.array(
            [math.sin(yaw) * math.cos(pitch), math.cos(yaw) * math.cos(pitch), -math.sin(pitch)]
        )
        right = np.array([math.cos(yaw), -math.sin(yaw), 0.0])
        down = np.cross(forward, right)
        rolled_right = math.cos(roll) * right + math.sin(roll) * down
        rolled_down = math.cos(roll) * down - math.sin(roll) * right
        return np.stack([rolled_right, rolled_down, forward], axis=1).astype(np.float32)

    def rays(self, offset_px: tuple[float, float] = (0.0, 0.0), step: int = 1) -> Float:
        """
        Return the world direction of each pixel, (H * W, 3), with length 1 along the optical axis.

        :param offset_px: shift from the pixel centres, for supersampling.
        :param step: use every n-th pixel, for a preview.
        """
        c = self.camera
        v, u = np.mgrid[0 : c.height : step, 0 : c.width : step]
        x, y = ray_slopes(u + offset_px[0], v + offset_px[1], c)
        optical = np.stack([x, y, np.ones_like(x)], axis=-1).reshape(-1, 3)
        return (optical @ self.rotation().T.astype(np.float64)).astype(np.float32)


@dataclass(frozen=True)
class Hits:
    """
    The first hits of N rays.

    :ivar triangle: (N,) index, -1 for the sky.
    :ivar scale: (N,) distance in lengths of the ray direction; +Inf for the sky.
    :ivar weights: (N, 3) barycentric coordinates.
    """

    triangle: Int
    scale: Float
    weights: Float


class Part(NamedTuple):
    """
    A mesh in world coordinates, with its label.

    :ivar label: SKY to OTHER.
    :ivar person: index of its person; -1: none.
    """

    mesh: Mesh
    label: int
    person: int = -1


class Scene:
    """Triangles for ray casting, with the data for shading."""

    def __init__(
        self,
        parts: Sequence[Part],
        lights: Sequence[Light],
        ambient: tuple[Float, Float],
        sky: Callable[[Float], Float],
        occlusion_m: float,
        environment: Environment | None = None,
    ) -> None:
        """
        Build the ray casting structure.

        :param parts: all meshes.
        :param ambient: linear RGB light from below and from above.
        :param sky: (N, 3) unit directions -> (N, 3) linear RGB.
        :param occlusion_m: farther objects do not darken a surface.
        :param environment: light by direction instead of `ambient`, scaled to its mean.
        """
        mesh = merged([part.mesh for part in parts])
        self.points = np.ascontiguousarray(mesh.points, np.float32)
        self.uv, self.corner_normals = mesh.uv, mesh.normals
        self.material = mesh.material
        self.materials: list[Material] = list(mesh.materials)
        sizes = [len(part.mesh.points) for part in parts]
        self.label = np.repeat([part.label for part in parts], sizes)
        self.person = np.repeat([part.person for part in parts], sizes)
        self.face_normals = face_normals(self.points)
        self.lights, self.ambient, self.sky = list(lights), ambient, sky
        self.occlusion_m = occlusion_m
        self.environment = environment
        self.mips = [_mips(m.texture) for m in self.materials]
        self.cut_out = np.array(
            [
                m.texture is not None and bool((m.texture[..., 3] < 128).any())
                for m in self.materials
            ]
        )
        self.texels_per_m = self._texels_per_m()
        self._embree = rtcore_scene.EmbreeScene()
        TriangleMesh(self._embree, self.points)

    def _texels_per_m(self) -> Float:
        edge_1, edge_2 = self.uv[:, 1] - self.uv[:, 0], self.uv[:, 2] - self.uv[:, 0]
        uv_area = np.abs(edge_1[:, 0] * edge_2[:, 1] - edge_1[:, 1] * edge_2[:, 0])
        texels = np.array(
            [0 if m.texture is None else m.texture[..., 0].size for m in self.materials]
        )[self.material]
        side_1, side_2 = (self.points[:, i] - self.points[:, 0] for i in (1, 2))
        area = np.linalg.norm(np.cross(side_1, side_2), axis=1)
        return np.sqrt(uv_area * texels / np.maximum(area, 1e-12)).astype(np.float32)

    def trace(self, origin: Float, direction: Float) -> Hits:
        """
        Trace rays to the first surface that is not transparent in its texture.

        :param origin: (3,) or (N, 3) world, metres.
        :param direction: (N, 3), of any length.
        """
        count = len(direction)
        origins = np.ascontiguousarray(np.broadcast_to(origin, (count, 3)), np.float32)
        triangle, scale, weights = self._first(origins, direction)
        open_rays = np.flatnonzero(self._passes(triangle, weights))
        for _ in range(MAX_SEE_THROUGH):
            if not len(open_rays):
                break
            start = (scale[open_rays] * 1.0001 + 1e-4).astype(np.float32)
            moved = origins[open_rays] + direction[open_rays] * start[:, None]
            found, further, inside = self._first(moved, direction[open_rays])
            triangle[open_rays], weights[open_rays] = found, inside
            scale[open_rays] = start + further
            open_rays = open_rays[self._passes(found, inside)]
        return Hits(triangle, scale, weights)

    def _first(self, origin: Float, direction: Float) -> tuple[Int, Float, Float]:
        hit = self._embree.run(
            origin, np.ascontiguousarray(direction), query='INTERSECT', output=1
        )
        triangle = hit['primID'].astype(np.int64)
        scale = np.where(triangle >= 0, hit['tfar'], np.inf).astype(np.float32)
        u, v = hit['u'], hit['v']
        return triangle, scale, np.stack([1 - u - v, u, v], axis=1)

    def _passes(self, triangle: Int, weights: Float) -> NDArray[np.bool_]:
        passes = np.zeros(len(triangle), bool)
        candidates = np.flatnonzero((triangle >= 0) & self.cut_out[self.material[triangle]])
        if len(candidates):
            texel = self.texture_at(triangle[candidates], weights[candidates], None)
            passes[candidates] = texel[:, 3] < 128
        return passes

    def texture_at(
        self, triangle: Int, weights: Float, footprint_m: Float | None
    ) -> NDArray[np.uint8]:
        """Return (N, 4) sRGB and alpha; white without a texture."""
        texel = np.full((len(triangle), 4), 255, np.uint8)
        kind = self.material[triangle]
        order = np.argsort(kind, kind='stable')
        ends = np.cumsum(np.bincount(kind, minlength=len(self.materials)))
        level = np.zeros(len(triangle), int)
        if footprint_m is not None:
            texels = np.maximum(footprint_m * self.texels_per_m[triangle], 1.0)
            level = np.log2(texels).astype(int)
        for i, mips in enumerate(self.mips):
            chosen = order[ends[i - 1] if i else 0 : ends[i]]
            if mips is None or not len(chosen):
                continue
            uv = np.einsum('nk,nkc->nc', weights[chosen], self.uv[triangle[chosen]])
            levels = np.minimum(level[chosen], len(mips) - 1)
            for number in np.unique(levels):
                part = levels == number
                image = mips[number]
                height, width = image.shape[:2]
                x = (uv[part, 0] % 1 * width).astype(int) % width
                y = ((1 - uv[part, 1]) % 1 * height).astype(int) % height
                texel[chosen[part]] = image[y, x]
        return texel

    def normals_at(self, hits: Hits, direction: Float) -> Float:
        """Return (N, 3) unit normals that face the viewer; smooth only near the face's own."""
        triangle = np.maximum(hits.triangle, 0)
        face = self.face_normals[triangle]
        towards = (face * direction).sum(1, keepdims=True)
        face = np.where(towards > 0, -face, face)
        smooth = np.einsum('nk,nkc->nc', hits.weights, self.corner_normals[triangle])
        smooth /= np.maximum(np.linalg.norm(smooth, axis=1, keepdims=True), 1e-9)
        agreement = (smooth * face).sum(1, keepdims=True)
        smooth = np.where(agreement < 0, -smooth, smooth)
        unit = direction / np.linalg.norm(direction, axis=1, keepdims=True)
        turned_away = (smooth * unit).sum(1) > -0.02
        wrong = np.abs(agreement[:, 0]) < math.cos(math.radians(SMOOTH_LIMIT_DEG))
        smooth[turned_away | wrong] = face[turned_away | wrong]
        return smooth.astype(np.float32)

    def free_distance(self, origin: Float, direction: Float) -> Float:
        """Return the free distance of (N,) unit rays, metres; very large if nothing is hit."""
        found: Float = self._embree.run(origin, direction, query='DISTANCE')
        return found


def _mips(texture: NDArray[np.uint8] | None) -> list[NDArray[Any]] | None:
    if texture is None:
        return None
    levels: list[NDArray[Any]] = [texture]
    while min(levels[-1].shape[:2]) >= 8 and len(levels) < 7:
        height, width = levels[-1].shape[:2]
        half = (width // 2, height // 2)
        levels.append(cv2.resize(levels[-1], half, interpolation=cv2.INTER_AREA))
    return levels
