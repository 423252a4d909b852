"""Yards: ground to the horizon, sky, sun, houses, fences, trees, vehicles."""

from __future__ import annotations

import math

import numpy as np

from sd_perception_ros.synthetic import textures
from sd_perception_ros.synthetic.items import Library
from sd_perception_ros.synthetic.layout import Layout, Rng, Stage
from sd_perception_ros.synthetic.meshes import box, Material, merged, Mesh, quad
from sd_perception_ros.synthetic.scene import FLOOR, Light, OTHER, Scene, WALL
from sd_perception_ros.synthetic.solids import tree

HORIZON_M = 500.0


def make_yard(rng: Rng, library: Library) -> Stage:
    """Build a yard; the same generator state gives the same yard."""
    layout = Layout(rng, (-6.0, -5.0, 6.0, 8.0))
    _add_ground(layout)
    _add_surroundings(layout)
    for _ in range(int(rng.choice([0, 0, 1, 1, 2]))):
        vehicle = library.pick(rng, 'vehicle')
        if vehicle is not None:
            angle = float(rng.integers(4)) * math.pi / 2 + float(rng.normal(0, 0.2))
            layout.stand_anywhere(vehicle, (-7.0, -1.0, 7.0, 9.0), angle)
    for _ in range(int(rng.integers(6, 10))):
        kind = str(rng.choice(['outdoor', 'outdoor', 'plant', 'furniture']))
        item = library.pick(rng, kind)
        if item is not None and item.size_m[2] < 9:
            angle = float(rng.uniform(-math.pi, math.pi))
            layout.stand_anywhere(item, (-6.5, -3.0, 6.5, 8.5), angle)
    layout.add_people(library, (-4.0, -3.0, 4.0, 6.0))
    elevation, heading = math.radians(rng.uniform(15, 70)), rng.uniform(-math.pi, math.pi)
    towards = np.array(
        [
            math.cos(elevation) * math.sin(heading),
            math.cos(elevation) * math.cos(heading),
            math.sin(elevation),
        ]
    )
    overcast = rng.random() < 0.3
    warm = np.array([1.0, 0.95, 0.88]) * (
        rng.uniform(0.0, 0.4) if overcast else rng.uniform(1.5, 3)
    )
    sun = Light(
        towards.astype(np.float32), warm.astype(np.float32), 0.1 if overcast else 0.01, True
    )
    blue = np.array([0.8, 0.95, 1.15]) * rng.uniform(0.6, 1.0)
    ambient = ((0.35 * blue).astype(np.float32), blue.astype(np.float32))
    scene = Scene(layout.parts, [sun], ambient, textures.sky(rng), 3.0)
    return layout.stage(scene)


def _add_ground(layout: Layout) -> None:
    rng, far = layout.rng, HORIZON_M
    color = textures.random_color(rng, 0.3, 0.75)
    look = textures.material(rng, textures.GROUNDS, color)
    corners = [(-far, -far, 0), (far, -far, 0), (far, far, 0), (-far, far, 0)]
    layout.add(quad(corners, look, float(rng.uniform(0.8, 3.0))), FLOOR)
    if rng.random() < 0.5:  # a path or a terrace
        paving = (textures.tiles, textures.gravel, textures.bricks, textures.planks)
        look = textures.material(rng, paving, textures.random_color(rng, 0.3, 0.8))
        x, wide = float(rng.uniform(-3, 3)), float(rng.uniform(0.6, 3.0))
        low, high = (-8.0, 12.0) if rng.random() < 0.6 else (1.0, 6.0)
        path = [
            (x - wide, low, 0.01),
            (x + wide, low, 0.01),
            (x + wide, high, 0.01),
            (x - wide, high, 0.01),
        ]
        layout.add(quad(path, look, float(rng.uniform(0.6, 1.6))), FLOOR)


def _add_surroundings(layout: Layout) -> None:
    """Houses, fences and trees behind and beside the yard."""
    rng = layout.rng
    for angle in (0.0, math.pi / 2, -math.pi / 2, math.pi):
        distance = float(rng.uniform(9, 20))
        choice = rng.random()
        if choice < 0.4:
            wide, tall = float(rng.uniform(7, 18)), float(rng.uniform(2.8, 8))
            house = _house(rng, wide, tall)
            layout.add(_around(house, angle, float(rng.uniform(-4, 4)), distance + 3), WALL)
        elif choice < 0.65:
            layout.add(_around(_fence(rng), angle, 0.0, distance - 0.5), WALL)
        for _ in range(int(rng.integers(0, 4))):
            grown = tree(rng, float(rng.uniform(2, 9)))
            sideways, further = float(rng.uniform(-12, 12)), float(rng.uniform(9, 35))
            layout.add(_around(grown.mesh, angle, sideways, further), OTHER)


def _around(mesh: Mesh, angle: float, sideways: float, distance: float) -> Mesh:
    x = sideways * math.cos(angle) - distance * math.sin(angle)
    y = sideways * math.sin(angle) + distance * math.cos(angle)
    return mesh.placed(angle, (x, y, 0.0))


def _house(rng: Rng, wide: float, tall: float) -> Mesh:
    """Walls with windows and a door towards -y, and a roof, flat or steep."""
    deep = float(rng.uniform(4, 6))
    x, y = wide / 2, deep / 2
    facade = textures.material(rng, textures.FACADES, textures.random_color(rng, 0.4, 0.95))
    corners = [(-x, -y), (x, -y), (x, y), (-x, y)]
    tile = float(rng.uniform(1.0, 2.5))
    parts = []
    for i in range(4):
        a, b = corners[i], corners[(i + 1) % 4]
        parts.append(quad([(*a, 0), (*b, 0), (*b, tall), (*a, tall)], facade, tile))
    roof = textures.material(
        rng, (textures.tiles, textures.bricks), textures.wood_color(rng) * 0.8
    )
    ridge = tall + float(rng.choice([0.05, 1.5, 2.5]))
    over = 0.3
    for s in (-1, 1):
        slope = [
            (-x - over, s * (y + over), tall),
            (x + over, s * (y + over), tall),
            (x + over, 0, ridge),
            (-x - over, 0, ridge),
        ]
        parts.append(quad(slope, roof, 1.2))
        gable = [(s * x, -y, tall), (s * x, y, tall), (s * x, 0, ridge), (s * x, 0, ridge)]
        parts.append(quad(gable, facade, tile))
    parts.extend(_house_openings(rng, wide, tall, -y))
    return merged([_without_slivers(part) for part in parts])


def _house_openings(rng: Rng, wide: float, tall: float, y: float) -> list[Mesh]:
    pane = Material((0.03, 0.04, 0.05), None, 0.9, (0.04, 0.05, 0.06))
    frame = textures.plain(textures.random_color(rng, 0.3, 0.97))
    door = textures.plain(textures.wood_color(rng))
    parts = []
    columns = max(2, int(wide / rng.uniform(2.2, 3.5)))
    door_column = int(rng.integers(columns))
    for floor in range(int(tall // 2.7)):
        for column in range(columns):
            x = -wide / 2 + (column + 0.5) * wide / columns
            if floor == 0 and column == door_column:
                parts.append(box((1.0, 0.1, 2.1), door, (x, y, 0)))
                continue
            z = floor * 2.7 + 0.9
            parts.append(box((1.1, 0.08, 1.3), frame, (x, y, z)))
            parts.append(box((0.45, 0.1, 1.15), pane, (x - 0.26, y, z + 0.07)))
            parts.append(box((0.45, 0.1, 1.15), pane, (x + 0.26, y, z + 0.07)))
    return parts


def _without_slivers(mesh: Mesh) -> Mesh:
    sides = [mesh.points[:, i] - mesh.points[:, 0] for i in (1, 2)]
    keep = np.linalg.norm(np.cross(sides[0], sides[1]), axis=1) > 1e-6
    return Mesh(
        mesh.points[keep], mesh.uv[keep], mesh.normals[keep], mesh.material[keep], mesh.materials
    )


def _fence(rng: Rng) -> Mesh:
    """Build a wall, or boards with gaps."""
    wide, tall = 26.0, float(rng.uniform(0.9, 2.2))
    if rng.random() < 0.5:
        look = textures.material(rng, textures.FACADES, textures.random_color(rng, 0.3, 0.9))
        corners = [(-wide / 2, 0, 0), (wide / 2, 0, 0), (wide / 2, 0, tall), (-wide / 2, 0, tall)]
        top = textures.plain(textures.random_color(rng, 0.3, 0.8))
        return merged(
            [
                quad(corners, look, float(rng.uniform(0.8, 2.0))),
                box((wide, 0.25, 0.08), top, (0, 0, tall)),
            ]
        )
    look = textures.plain(textures.wood_color(rng))
    board = float(rng.uniform(0.08, 0.2))
    gap = float(rng.choice([0.01, 0.06, 0.12]))
    parts = [
        box((board, 0.03, tall * float(rng.uniform(0.97, 1.0))), look, (float(x), 0, 0))
        for x in np.arange(-wide / 2, wide / 2, board + gap)
    ]
    parts += [box((wide, 0.04, 0.1), look, (0, 0.04, tall * z)) for z in (0.25, 0.75)]
    return merged(parts)
