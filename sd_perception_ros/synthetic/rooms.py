"""Rooms of 4 to 7 m: walls, openings, furniture along the walls and in the middle, lamps."""

from __future__ import annotations

import math

import numpy as np

from sd_perception_ros.synthetic import textures
from sd_perception_ros.synthetic.items import Item, Library
from sd_perception_ros.synthetic.layout import Layout, Rng, Stage
from sd_perception_ros.synthetic.meshes import box, Material, merged, Mesh, quad
from sd_perception_ros.synthetic.scene import CEILING, FLOOR, FURNITURE, Light, Scene, WALL


def make_room(rng: Rng, library: Library) -> Stage:
    """Build and furnish a room; the same generator state gives the same room."""
    x, y = rng.uniform(2.0, 3.5, 2)
    height = float(rng.uniform(2.3, 3.2))
    layout = Layout(rng, (-x, -y, x, y))
    _add_shell(layout, height)
    _add_rugs(layout)
    _add_furniture(layout, library, height)
    margin = 0.25
    layout.add_people(library, (-x + margin, -y + margin, x - margin, y - margin))
    wall_lights = _add_openings(layout, library, height)
    _add_pictures(layout, library, height)
    lights = [*_lamps(layout, library, height), *wall_lights]
    warm = np.array([1.0, 0.95, 0.88]) * np.exp(rng.normal(0, 0.06, 3))
    level = rng.uniform(0.25, 0.7)
    ambient = ((0.6 * level * warm).astype(np.float32), (level * warm).astype(np.float32))
    scene = Scene(layout.parts, lights, ambient, _dark, 1.2)
    return layout.stage(scene)


def _dark(direction: np.ndarray) -> np.ndarray:
    return np.zeros_like(direction)


def _add_shell(layout: Layout, height: float) -> None:
    """Floor, ceiling, four walls, skirting, and sometimes a pillar in a corner."""
    rng, (x0, y0, x1, y1) = layout.rng, layout.ground
    color = textures.wood_color(rng) if rng.random() < 0.6 else textures.random_color(rng)
    floor = textures.material(rng, textures.FLOORS, color, rng.choice([0, 0.1, 0.4]))
    tile = float(rng.uniform(0.6, 1.8))
    corners = [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
    if rng.random() < 0.5:  # boards along the other side of the room
        corners = corners[1:] + corners[:1]
    layout.add(quad([(*c, 0) for c in corners], floor, tile), FLOOR)
    white = textures.plain(np.full(3, rng.uniform(0.75, 0.97)) * (1, 0.99, 0.97))
    layout.add(quad([(*c, height) for c in corners], white), CEILING)
    walls = [textures.material(rng, textures.WALLS, _wall_color(rng)) for _ in range(2)]
    if rng.random() < 0.6:
        walls[1] = walls[0]
    tile = float(rng.uniform(0.7, 2.0))
    board = textures.plain(textures.random_color(rng, 0.3, 0.97))
    for side, look in enumerate([walls[0], walls[1], walls[1], walls[1]]):
        a, b = _wall_ends(layout, side)
        layout.add(quad([(*a, 0), (*b, 0), (*b, height), (*a, height)], look, tile), WALL)
        length = math.dist(a, b)
        skirting = box((length, 0.015, rng.uniform(0.05, 0.12)), board)
        layout.add(_on_wall(layout, skirting, side, 0.5, 0.0, 0.015), WALL)
    if rng.random() < 0.3:
        _add_pillar(layout, height, walls[0], tile)


def _wall_color(rng: Rng) -> np.ndarray:
    return textures.random_color(rng, 0.55, 0.98) ** (1.0 if rng.random() < 0.4 else 0.5)


def _wall_ends(layout: Layout, side: int) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return both lower corners of a wall; sides count counter-clockwise from +y."""
    x0, y0, x1, y1 = layout.ground
    ends = [((x0, y1), (x1, y1)), ((x0, y0), (x0, y1)), ((x1, y0), (x0, y0)), ((x1, y1), (x1, y0))]
    return ends[side]


def _on_wall(
    layout: Layout, mesh: Mesh, side: int, along: float, z: float, depth_m: float
) -> Mesh:
    """Move a flat mesh to a wall: its back, `depth_m / 2` behind its centre, touches the wall."""
    a, b = (np.array(end) for end in _wall_ends(layout, side))
    inward = -np.array([(0, 1), (-1, 0), (0, -1), (1, 0)][side])
    x, y = a + (b - a) * along + inward * depth_m / 2
    return mesh.placed(side * math.pi / 2, (float(x), float(y), z))


def _add_pillar(layout: Layout, height: float, look: Material, tile: float) -> None:
    rng, (x0, _, x1, y1) = layout.rng, layout.ground
    wide, deep = rng.uniform(0.4, 1.6, 2)
    x = x0 + wide / 2 if rng.random() < 0.5 else x1 - wide / 2
    y = y1 - deep / 2
    sides = []
    a, b, c, d = (
        (x + s * wide / 2, y + t * deep / 2) for s, t in ((-1, -1), (1, -1), (1, 1), (-1, 1))
    )
    for p, q in ((a, b), (b, c), (c, d), (d, a)):
        sides.append(quad([(*p, 0), (*q, 0), (*q, height), (*p, height)], look, tile))
    layout.add(merged(sides), WALL)
    layout.blocked.append((x - wide / 2, y - deep / 2, x + wide / 2, y + deep / 2))


def _add_rugs(layout: Layout) -> None:
    rng, (x0, y0, x1, y1) = layout.rng, layout.ground
    for layer in range(int(rng.choice([0, 0, 1, 1, 2]))):
        wide, deep = rng.uniform(0.8, 2.6), rng.uniform(0.6, 1.8)
        cloth = textures.material(rng, textures.CLOTHS, textures.random_color(rng))
        rug = quad(
            [
                (-wide / 2, -deep / 2, 0),
                (wide / 2, -deep / 2, 0),
                (wide / 2, deep / 2, 0),
                (-wide / 2, deep / 2, 0),
            ],
            cloth,
            float(rng.uniform(0.5, 2.0)),
        )
        x = float(rng.uniform(x0 + 1, x1 - 1))
        y = float(rng.uniform(y0 + 1, y1 - 1))
        layout.add(rug.placed(float(rng.normal(0, 0.3)), (x, y, 0.008 + 0.002 * layer)), FLOOR)


def _add_furniture(layout: Layout, library: Library, height: float) -> None:
    rng = layout.rng
    for _ in range(int(rng.integers(6, 10))):
        item = library.pick(rng, 'furniture')
        if item is None or item.size_m[2] > height - 0.05:
            continue
        if rng.random() < 0.6:
            side = int(rng.integers(4))
            angle = side * math.pi / 2
            placed = layout.stand_along(item, side)
        else:
            angle = float(rng.integers(4)) * math.pi / 2 + float(rng.normal(0, 0.15))
            placed = layout.stand_anywhere(item, layout.ground, angle)
        if placed and item.top_m > 0.25:
            layout.decorate(library, item, layout.last_place(), angle)


def _add_openings(layout: Layout, library: Library, height: float) -> list[Light]:
    """Doors and windows; a window in daylight gives light."""
    rng, lights = layout.rng, []
    for side in rng.permutation(4)[: int(rng.integers(1, 4))]:
        side, along = int(side), float(rng.uniform(0.25, 0.75))
        if rng.random() < 0.5:
            item = library.pick(rng, 'door') or _panel(rng, (0.9, 0.06, 2.05))
            if item.size_m[2] < height:
                mesh = _on_wall(layout, item.mesh, side, along, 0.0, 0.03)
                layout.add(mesh, WALL)
                layout.models.extend([item.model] if item.model else [])
            continue
        wide, tall = float(rng.uniform(0.8, 2.0)), float(rng.uniform(0.9, 1.4))
        z = float(rng.uniform(0.7, 0.95))
        day = rng.random() < 0.75
        layout.add(_on_wall(layout, _window(rng, wide, tall, day), side, along, z, 0.02), WALL)
        if day:
            a, b = (np.array(end) for end in _wall_ends(layout, side))
            inward = -np.array([(0, 1), (-1, 0), (0, -1), (1, 0)][side])
            spot = np.array([*(a + (b - a) * along + inward * 0.5), z + tall / 2])
            color = np.array([0.85, 0.95, 1.1]) * rng.uniform(1.0, 4.0)
            lights.append(Light(spot.astype(np.float32), color.astype(np.float32), 0.4))
    return lights[:1]


def _panel(rng: Rng, size_m: tuple[float, float, float]) -> Item:
    look = textures.plain(textures.wood_color(rng))
    handle = box((0.12, 0.05, 0.02), textures.plain(np.full(3, 0.7), 0.8), (0.33, -0.05, 1.0))
    return Item(merged([box(size_m, look), handle]), WALL, size_m)


def _window(rng: Rng, wide: float, tall: float, day: bool) -> Mesh:
    """Frame with bars in front of a pane; the pane shows a blurred outside, or the night."""
    view = textures.painting(rng, textures.random_color(rng, 0.6, 1.0))
    if day:
        view = np.clip(0.6 + 0.4 * view, 0, 1)
        look = textures.textured(view)
        glow = float(rng.uniform(1.0, 3.0))
        pane_look = Material((0.1, 0.1, 0.1), None, 0.5, (glow, glow, glow))
        pane_look = pane_look if rng.random() < 0.6 else look
    else:
        pane_look = textures.plain(np.array([0.05, 0.06, 0.09]), 0.9)
    x, bar = wide / 2, 0.05
    corners = [(-x, 0.005, 0), (x, 0.005, 0), (x, 0.005, tall), (-x, 0.005, tall)]
    pane = quad(corners, pane_look, max(wide, tall))
    frame = textures.plain(textures.random_color(rng, 0.4, 0.97))
    parts = [pane]
    for at in np.linspace(-x, x, int(rng.integers(2, 4))):
        parts.append(box((bar, 0.04, tall), frame, (float(at), 0, 0)))
    for z in (-bar, tall, *([tall / 2] if rng.random() < 0.3 else [])):
        parts.append(box((wide + bar, 0.05, bar), frame, (0, 0, float(z))))
    return merged(parts)


def _add_pictures(layout: Layout, library: Library, height: float) -> None:
    """Paintings and other objects on walls."""
    rng = layout.rng
    for _ in range(int(rng.integers(0, 5))):
        side, along = int(rng.integers(4)), float(rng.uniform(0.15, 0.85))
        item = library.pick(rng, 'on wall') if rng.random() < 0.4 else None
        if item is not None and item.elevation_m + item.size_m[2] < height - 0.1:
            mesh = _on_wall(layout, item.mesh, side, along, item.elevation_m, item.size_m[1])
            layout.add(mesh, item.label)
            layout.models.extend([item.model] if item.model else [])
            continue
        wide, tall = float(rng.uniform(0.25, 1.1)), float(rng.uniform(0.25, 0.8))
        art = textures.textured(textures.painting(rng, textures.random_color(rng)))
        frame = textures.plain(textures.random_color(rng, 0.05, 0.9), 0.3)
        x = wide / 2 - 0.03
        corners = [
            (-x, -0.016, 0.03),
            (x, -0.016, 0.03),
            (x, -0.016, tall - 0.03),
            (-x, -0.016, tall - 0.03),
        ]
        picture = merged([box((wide, 0.03, tall), frame), quad(corners, art, max(wide, tall))])
        z = float(rng.uniform(1.2, max(1.25, height - tall - 0.3)))
        layout.add(_on_wall(layout, picture, side, along, z, 0.03), FURNITURE)


def _lamps(layout: Layout, library: Library, height: float) -> list[Light]:
    rng, (x0, y0, x1, y1) = layout.rng, layout.ground
    lights = []
    for _ in range(int(rng.choice([1, 1, 2]))):
        x, y = float(rng.uniform(x0 + 0.8, x1 - 0.8)), float(rng.uniform(y0 + 0.8, y1 - 0.8))
        item = library.pick(rng, 'ceiling lamp') if rng.random() < 0.6 else None
        drop = 0.08
        if item is not None and item.size_m[2] < height - 1.95:
            layout.put(item, x, y, height - item.size_m[2], 0.0)
            drop = item.size_m[2] + 0.05
        tint = np.array([1.0, 0.92, 0.8]) * np.exp(rng.normal(0, 0.1, 3))
        color = tint * rng.uniform(1.0, 5.0)
        at = np.array([x, y, height - drop - 0.1], np.float32)
        lights.append(Light(at, color.astype(np.float32), float(rng.uniform(0.08, 0.5))))
    return lights
