"""Simple solids instead of catalogue models, for tests without a download."""

from __future__ import annotations

import math

import numpy as np

from sd_perception_ros.skeleton import INDEX, JOINTS
from sd_perception_ros.synthetic import textures
from sd_perception_ros.synthetic.items import Item, person
from sd_perception_ros.synthetic.meshes import box, cylinder, limb, Material, merged, Mesh
from sd_perception_ros.synthetic.scene import FURNITURE, OTHER

Rng = np.random.Generator


class Solids:
    """Tables, shelves, lamps and stand-in people made of boxes and cylinders."""

    def pick(self, rng: Rng, kind: str) -> Item | None:
        """Return a new item of a kind."""
        if kind == 'person':
            return stand_in(rng)
        if kind == 'plant':
            return tree(rng, rng.uniform(0.6, 3.0))
        if kind == 'vehicle':
            return _vehicle(rng)
        if kind in ('furniture', 'outdoor'):
            makers = (_table, _shelf, _block, _column)
            return makers[int(rng.integers(len(makers)))](rng)
        if kind == 'small':
            return _column(rng, 0.2)
        return None


def _surface(rng: Rng) -> Material:
    if rng.random() < 0.5:
        return textures.material(
            rng, (textures.planks, textures.ornament, textures.speckled), textures.wood_color(rng)
        )
    return textures.plain(textures.random_color(rng), rng.random() * 0.4)


def _table(rng: Rng) -> Item:
    x, y, z = rng.uniform(0.6, 1.8), rng.uniform(0.5, 0.9), rng.uniform(0.4, 0.8)
    look, leg = _surface(rng), rng.uniform(0.04, 0.08)
    parts = [box((x, y, 0.04), look, (0, 0, z - 0.04))]
    for a in (-1, 1):
        for b in (-1, 1):
            foot = (a * (x - leg) / 2, b * (y - leg) / 2, 0)
            parts.append(box((leg, leg, z - 0.04), look, foot))
    return Item(merged(parts), FURNITURE, (x, y, z), top_m=z)


def _shelf(rng: Rng) -> Item:
    x, y, z = rng.uniform(0.5, 1.2), rng.uniform(0.25, 0.5), rng.uniform(0.8, 2.1)
    look = _surface(rng)
    parts = [box((0.03, y, z), look, (a * (x / 2 - 0.015), 0, 0)) for a in (-1, 1)]
    parts.append(box((x, 0.02, z), look, (0, y / 2 - 0.01, 0)))
    for height in np.linspace(0.02, z - 0.03, int(rng.integers(3, 6))):
        parts.append(box((x - 0.06, y - 0.02, 0.03), look, (0, -0.01, float(height))))
    return Item(merged(parts), FURNITURE, (x, y, z), top_m=z)


def _block(rng: Rng) -> Item:
    x, y, z = rng.uniform(0.3, 1.6), rng.uniform(0.3, 0.9), rng.uniform(0.3, 1.4)
    return Item(box((x, y, z), _surface(rng)), FURNITURE, (x, y, z), top_m=z)


def _column(rng: Rng, scale: float = 1.0) -> Item:
    radius, height = scale * rng.uniform(0.15, 0.4), scale * rng.uniform(0.4, 1.5)
    mesh = cylinder(radius, height, _surface(rng), top_radius_m=radius * rng.uniform(0.4, 1.2))
    return Item(mesh, FURNITURE, (2 * radius, 2 * radius, height), top_m=height)


def stand_in(rng: Rng) -> Item:
    """Build a standing or walking figure with known joints."""
    height_m = rng.uniform(1.1, 1.9)
    joints = _pose(rng) * height_m
    at = {name: joints[index] for name, index in INDEX.items()}
    trousers, shirt = (textures.plain(textures.random_color(rng, 0.05, 0.9)) for _ in range(2))
    skin = textures.plain(np.array([0.9, 0.7, 0.55]) * rng.uniform(0.4, 1.0))
    dark = textures.plain(np.array([0.25, 0.17, 0.1]) * rng.uniform(0.2, 1.5))
    hips = (at['left_hip'] + at['right_hip']) / 2
    neck = (at['left_shoulder'] + at['right_shoulder']) / 2
    crown = np.array([0, 0, height_m])
    nose = (0.018 * height_m, 0.015 * height_m, 0.03 * height_m)
    parts = [
        limb(hips, neck, 0.095 * height_m, shirt, 0.115 * height_m),
        limb(neck, 0.9 * crown, 0.035 * height_m, skin),
        limb(0.87 * crown, 0.98 * crown, 0.055 * height_m, skin),
        limb(0.945 * crown, crown, 0.06 * height_m, dark, 0.045 * height_m),
        box(nose, skin, at['nose'] - (0, 0, 0.5 * nose[2])),
    ]
    for side in ('left', 'right'):
        shoulder, elbow, wrist, hip, knee, ankle = (
            at[f'{side}_{name}'] for name in ('shoulder', 'elbow', 'wrist', 'hip', 'knee', 'ankle')
        )
        hand = wrist + 0.4 * (wrist - elbow)
        foot = (ankle[0], ankle[1] - 0.035 * height_m, ankle[2] - 0.04 * height_m)
        parts += [
            limb(shoulder, elbow, 0.032 * height_m, shirt, 0.025 * height_m),
            limb(elbow, hand, 0.024 * height_m, skin, 0.02 * height_m),
            limb(hip, knee, 0.055 * height_m, trousers, 0.038 * height_m),
            limb(knee, ankle, 0.036 * height_m, trousers, 0.026 * height_m),
            box((0.05 * height_m, 0.14 * height_m, 0.05 * height_m), dark, foot),
        ]
    return person(merged(parts), joints)


def _pose(rng: Rng) -> np.ndarray:
    """
    Return (17, 3) joints of a person 1 m tall, front towards -y, so left is +x.

    Lengths as fractions of the height: Drillis and Contini, 1966.
    """
    step = rng.uniform(-0.4, 0.4)
    at = {
        'nose': np.array([0, -0.062, 0.91]),
        **{f'{side}_eye': np.array([x, -0.05, 0.93]) for side, x in _sides(0.018)},
        **{f'{side}_ear': np.array([x, 0.0, 0.925]) for side, x in _sides(0.056)},
    }
    for side, sign in _sides(1.0):
        swing, bend = rng.uniform(-0.4, 1.2), rng.uniform(0, 1.6)
        out = sign * rng.uniform(0.05, 0.5)
        shoulder = np.array([sign * 0.125, 0, 0.82])
        elbow = shoulder + 0.186 * _hanging(swing, out)
        wrist = elbow + 0.146 * _hanging(swing + bend, out * 0.5)
        hip = np.array([sign * 0.055, 0, 0.53])
        knee = hip + 0.245 * _hanging(sign * step, 0.0)
        ankle = knee + 0.245 * _hanging(sign * step - rng.uniform(0, 0.3), 0.0)
        names = ('shoulder', 'elbow', 'wrist', 'hip', 'knee', 'ankle')
        spots = (shoulder, elbow, wrist, hip, knee, ankle)
        at.update({f'{side}_{n}': spot for n, spot in zip(names, spots, strict=True)})
    return np.stack([at[name] for name in JOINTS])


def _sides(x: float) -> tuple[tuple[str, float], tuple[str, float]]:
    return ('left', x), ('right', -x)


def _hanging(forward_rad: float, out_rad: float) -> np.ndarray:
    """Return the unit vector of a hanging limb, swung to the front, then to +x."""
    ahead, down = math.sin(forward_rad), math.cos(forward_rad)
    return np.array([down * math.sin(out_rad), -ahead, -down * math.cos(out_rad)])


def _vehicle(rng: Rng) -> Item:
    x, y, z = rng.uniform(1.5, 2.0), rng.uniform(3.2, 4.6), rng.uniform(0.6, 0.9)
    paint = textures.plain(textures.random_color(rng), 0.8)
    dark = textures.plain(np.array([0.06, 0.06, 0.07]), 0.5)
    parts = [
        box((x, y, z), paint, (0, 0, 0.3)),
        box((x * 0.85, y * 0.5, 0.55), dark, (0, y * 0.05, 0.3 + z)),
    ]
    for a in (-1, 1):
        for b in (-1, 1):
            parts.append(box((0.2, 0.6, 0.6), dark, (a * x / 2, b * y / 3, 0)))
    return Item(merged(parts), OTHER, (x + 0.2, y, 0.85 + z))


def tree(rng: Rng, height_m: float) -> Item:
    """Build a tree or a bush: a trunk and lumps of leaves."""
    bark = textures.material(rng, (textures.speckled,), textures.wood_color(rng) * 0.6)
    leaves = textures.material(rng, (textures.grass,), textures.random_color(rng, 0.3, 0.9))
    radius = height_m * rng.uniform(0.18, 0.35)
    parts = [cylinder(0.04 * height_m, height_m * 0.7, bark, top_radius_m=0.02 * height_m)]
    for _ in range(int(rng.integers(3, 8))):
        at = rng.normal(0, radius * 0.45, 3) + np.array([0, 0, height_m - radius])
        parts.append(_lump(rng, radius * rng.uniform(0.5, 0.9), leaves, at))
    wide = 2.4 * radius
    return Item(merged(parts), OTHER, (wide, wide, height_m))


def _lump(rng: Rng, radius_m: float, material: Material, at: np.ndarray) -> Mesh:
    """Return a bumpy ball."""
    rows, columns = 9, 14
    polar, around = np.meshgrid(
        np.linspace(0, np.pi, rows), np.linspace(0, 2 * np.pi, columns), indexing='ij'
    )
    bump = 1 + 0.18 * rng.standard_normal((rows, columns))
    bump[:, -1] = bump[:, 0]
    bump[0], bump[-1] = 1, 1
    ring = np.sin(polar)
    ball = np.stack([ring * np.cos(around), ring * np.sin(around), np.cos(polar)], -1)
    grid = (ball * bump[..., None] * radius_m + at).astype(np.float32)
    uv = np.stack([around, polar], -1).astype(np.float32) * radius_m

    def split(values: np.ndarray) -> np.ndarray:
        a, b, c, d = values[:-1, :-1], values[1:, :-1], values[1:, 1:], values[:-1, 1:]
        width = values.shape[-1]
        halves = [np.stack([a, b, c], -2), np.stack([a, c, d], -2)]
        return np.concatenate([half.reshape(-1, 3, width) for half in halves])

    points = split(grid)
    keep = np.linalg.norm(
        np.cross(points[:, 1] - points[:, 0], points[:, 2] - points[:, 0]), axis=1
    )
    keep = keep > 1e-9
    normals = split(ball.astype(np.float32))[keep]
    kinds = np.zeros(int(keep.sum()), np.int32)
    return Mesh(points[keep], split(uv)[keep], normals, kinds, (material,))
