"""Render a view of a scene: image and exact ground truth."""

from __future__ import annotations

from dataclasses import dataclass
import math
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sd_perception_ros.synthetic.scene import (
    FURNITURE,
    Hits,
    Light,
    OTHER,
    PERSON,
    Scene,
    SKY,
    View,
)

Float = NDArray[np.floating[Any]]
UInt8 = NDArray[np.uint8]
Rng = np.random.Generator
MAX_DEPTH_M = 65.0  # farther is out of range; the files have at most 65.534 m
SUBPIXELS = ((-0.25, -0.25), (0.25, -0.25), (-0.25, 0.25), (0.25, 0.25))
LINEAR = (np.arange(256, dtype=np.float32) / 255) ** 2.2


@dataclass(frozen=True)
class GroundTruth:
    """
    Ground truth at the pixel centres.

    :ivar depth_m: (H, W) float32 along +z; +Inf: out of range.
    :ivar normals: (H, W, 3) unit, optical frame, facing the camera; 0 where the depth is +Inf.
    :ivar semantic: (H, W) uint8 labels of `scene.py`; SKY where the depth is +Inf.
    """

    depth_m: Float
    normals: Float
    semantic: UInt8


@dataclass(frozen=True)
class Radiance:
    """
    The light of each pixel, mean of 2 x 2 rays.

    :ivar light: (H, W, 3) linear.
    :ivar foreground: (H, W) fraction of the pixel, 0..1, covered by objects and people.
    :ivar matte: (H, W) fraction of the pixel, 0..1, covered by people.
    """

    light: Float
    foreground: Float
    matte: Float


@dataclass(frozen=True)
class Look:
    """
    How a camera converts light to an image.

    :ivar brightness: median of the image before the tone curve.
    :ivar white_balance: (3,) gains.
    :ivar noise: standard deviation of the noise in mid grey.
    :ivar blur_px: standard deviation of the lens blur.
    """

    brightness: float
    white_balance: Float
    contrast: float
    saturation: float
    noise: float
    blur_px: float

    @staticmethod
    def random(rng: Rng) -> Look:
        """Draw a camera of random quality."""
        return Look(
            brightness=rng.uniform(0.1, 0.3),
            white_balance=np.exp(rng.normal(0, 0.07, 3)).astype(np.float32),
            contrast=rng.uniform(0.85, 1.25),
            saturation=rng.uniform(0.7, 1.2),
            noise=rng.choice([0.0, 0.006, 0.012, 0.03]) * rng.uniform(0.5, 1),
            blur_px=rng.choice([0.0, 0.0, 0.5, 0.9]),
        )


def ground_truth(scene: Scene, view: View, step: int = 1) -> GroundTruth:
    """
    Cast one ray through each pixel centre.

    :param step: use every n-th pixel, for a preview.
    """
    direction = view.rays(step=step)
    hits = scene.trace(view.position_m, direction)
    height, width = (-(-n // step) for n in (view.camera.height, view.camera.width))
    seen = (hits.triangle >= 0) & (hits.scale <= MAX_DEPTH_M)
    depth_m = np.where(seen, hits.scale, np.inf).astype(np.float32)
    normals = scene.normals_at(hits, direction) @ view.rotation()
    normals[~seen] = 0
    label = np.where(seen, scene.label[hits.triangle], SKY).astype(np.uint8)
    return GroundTruth(
        depth_m.reshape(height, width),
        normals.reshape(height, width, 3),
        label.reshape(height, width),
    )


def radiance(scene: Scene, view: View, rng: Rng) -> Radiance:
    """Trace 2 x 2 rays through each pixel."""
    size = view.camera.height, view.camera.width
    light = np.zeros((size[0] * size[1], 3), np.float32)
    covered = np.zeros((2, len(light)), np.float32)
    turn = rng.random(len(light)).astype(np.float32)  # index of the occlusion ray, four per pixel
    for quarter, offset in enumerate(SUBPIXELS):
        direction = view.rays(offset)
        hits = scene.trace(view.position_m, direction)
        light += _shade(scene, view, hits, direction, (turn, quarter), rng)
        seen = (hits.triangle >= 0) & (hits.scale <= MAX_DEPTH_M)
        label = np.where(seen, scene.label[hits.triangle], SKY)
        covered += np.isin(label, (FURNITURE, PERSON, OTHER)), label == PERSON
    share = (covered / len(SUBPIXELS)).reshape(2, *size)
    return Radiance((light / len(SUBPIXELS)).reshape(*size, 3), share[0], share[1])


def _shade(
    scene: Scene, view: View, hits: Hits, direction: Float, stratum: tuple[Float, int], rng: Rng
) -> Float:
    unit = direction / np.linalg.norm(direction, axis=1, keepdims=True)
    color = np.zeros_like(direction)
    seen = np.flatnonzero(hits.triangle >= 0)
    missed = hits.triangle < 0
    if missed.any():
        color[missed] = scene.sky(unit[missed])
    if not len(seen):
        return color
    triangle, ray = hits.triangle[seen], unit[seen]
    found = Hits(triangle, hits.scale[seen], hits.weights[seen])
    normal = scene.normals_at(found, direction[seen])
    cosine = np.maximum(-(normal * ray).sum(1), 0.1)
    footprint_m = found.scale / (2 * view.camera.fx * cosine)
    albedo = LINEAR[scene.texture_at(triangle, found.weights, footprint_m)[:, :3]]
    kind = scene.material[triangle]
    albedo = albedo * np.array([m.color for m in scene.materials], np.float32)[kind]
    gloss = np.array([m.gloss for m in scene.materials], np.float32)[kind]
    point = view.position_m + direction[seen] * found.scale[:, None] + normal * 2e-3
    light = _ambient(scene, point, normal, stratum[0][seen], stratum[1], rng)
    shine = np.zeros_like(light)
    for lamp in scene.lights:
        towards, strength = _lamp_sample(scene, lamp, point, normal, rng)
        light += strength
        half = towards - ray
        half /= np.maximum(np.linalg.norm(half, axis=1, keepdims=True), 1e-6)
        peak = np.maximum((normal * half).sum(1), 0) ** 40
        shine += strength * (gloss * peak)[:, None]
    emission = np.array([m.emission for m in scene.materials], np.float32)[kind]
    color[seen] = albedo * light + shine + emission
    return color


def _ambient(
    scene: Scene, point: Float, normal: Float, turn: Float, quarter: int, rng: Rng
) -> Float:
    """Ambient light with occlusion; one cosine-weighted ray in each quarter turn."""
    angle = 2 * math.pi * (turn + quarter / 4)
    height = 2 * rng.random(len(point), np.float32) - 1
    radius = np.sqrt(1 - height**2)
    ball = np.stack([radius * np.cos(angle), radius * np.sin(angle), height], axis=1)
    direction = (ball + normal).astype(np.float32)
    direction /= np.maximum(np.linalg.norm(direction, axis=1, keepdims=True), 1e-3)
    openness = np.clip(scene.free_distance(point, direction) / scene.occlusion_m, 0.1, 1)
    below, above = scene.ambient
    if scene.environment is not None:
        light = scene.environment.at(normal) * (below + above) / 2
    else:
        upward = (0.5 + 0.5 * normal[:, 2])[:, None]
        light = below * (1 - upward) + above * upward
    return (light * openness[:, None]).astype(np.float32)


def _lamp_sample(
    scene: Scene, lamp: Light, point: Float, normal: Float, rng: Rng
) -> tuple[Float, Float]:
    """Return the unit direction to one point of the lamp, and the light from it, (N, 3) each."""
    spread = rng.uniform(-1, 1, (len(point), 3)).astype(np.float32) * lamp.radius_m
    towards = lamp.position_m + spread - (0 if lamp.is_sun else point)
    distance = np.linalg.norm(towards, axis=1)
    towards /= np.maximum(distance, 1e-6)[:, None]
    facing = np.maximum((normal * towards).sum(1), 0)
    lit = np.flatnonzero(facing > 0)
    reach = scene.free_distance(point[lit], np.ascontiguousarray(towards[lit]))
    falloff = np.ones_like(distance) if lamp.is_sun else 1 / np.maximum(distance**2, 0.15)
    free = np.zeros(len(point), np.float32)
    free[lit] = (reach > 1e6) if lamp.is_sun else (reach > distance[lit] * 0.98)
    return towards, (free * facing * falloff)[:, None] * lamp.color


def exposure(linear: Float, look: Look) -> float:
    """Return the gain for the median brightness of the look."""
    return look.brightness / (float(np.median(linear.mean(-1))) + 1e-3)


def develop(linear: Float, look: Look, gain: float, rng: Rng) -> UInt8:
    """Convert light, (H, W, 3) linear, to an sRGB image with the faults of a camera."""
    light: Any = linear * gain * look.white_balance
    if look.blur_px > 0:
        light = cv2.GaussianBlur(light, (0, 0), look.blur_px)
    gray = light.mean(-1, keepdims=True)
    light = np.maximum(gray + (light - gray) * look.saturation, 0)
    light = light / (1 + 0.35 * light)  # a soft shoulder instead of hard clipping
    grain = rng.standard_normal(light.shape).astype(np.float32) * look.noise
    light = light + grain * np.sqrt(light + 0.02)
    picture = np.clip(light, 0, 1) ** (1 / 2.2)
    picture = np.clip(0.5 + (picture - 0.45) * look.contrast - 0.05, 0, 1)
    return np.round(picture * 255).astype(np.uint8)
