"""Things to put into a scene, by kind: catalogue models, or plain solids without any download."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from sd_perception_ros.synthetic import textures
from sd_perception_ros.synthetic.assets import INDOOR, Model, read_catalogs
from sd_perception_ros.synthetic.meshes import box, cylinder, Material, merged, Mesh
from sd_perception_ros.synthetic.obj import load_mesh
from sd_perception_ros.synthetic.scene import FURNITURE, OTHER, PERSON, WALL

Rng = np.random.Generator
MESHES_IN_MEMORY = 48
KINDS = (
    'furniture',
    'small',
    'on wall',
    'door',
    'window',
    'ceiling lamp',
    'outdoor',
    'plant',
    'vehicle',
    'person',
)


@dataclass(frozen=True)
class Item:
    """
    One thing, ready to be placed.

    :ivar mesh: metres, front towards -y, standing on z = 0, centred in x and y.
    :ivar label: its semantic class in `scene.py`.
    :ivar elevation_m: where its lower side belongs, over 0 for things on walls.
    :ivar top_m: height at which small things can stand on it, 0 for none.
    :ivar model: the catalogue model to credit, None for our own solids.
    """

    mesh: Mesh
    label: int
    size_m: tuple[float, float, float]
    elevation_m: float = 0.0
    top_m: float = 0.0
    model: Model | None = None


class Library(Protocol):
    """Where scenes get their things from."""

    def pick(self, rng: Rng, kind: str) -> Item | None:
        """Return something of a kind, or None if there is nothing of that kind."""


class Catalog:
    """The models of the furniture catalogues, either those for training or those held out."""

    def __init__(self, folder: Path, cache: Path, held_out: bool) -> None:
        """
        Read the catalogues.

        :param cache: folder for parsed meshes; it is made and filled when needed.
        :param held_out: use only the reserved models, otherwise only the others.
        """
        self.cache = cache
        self._loaded: OrderedDict[str, Mesh | None] = OrderedDict()
        self._kinds: dict[str, list[Model]] = {kind: [] for kind in KINDS}
        for model in read_catalogs(folder):
            if model.held_out == held_out:
                for kind in _kinds(model):
                    self._kinds[kind].append(model)

    def models(self, kind: str) -> list[Model]:
        """Return every model of a kind."""
        return list(self._kinds[kind])

    def pick(self, rng: Rng, kind: str) -> Item | None:
        """Return a random model of a kind, recoloured now and then."""
        models = self._kinds[kind]
        for _ in range(3 if models else 0):
            model = models[int(rng.integers(len(models)))]
            mesh = self._mesh(model)
            if mesh is not None:
                if not model.is_person and not model.is_plant:
                    mesh = mesh.painted(_recoloured(rng, mesh.materials))
                return Item(
                    mesh, _label(model), model.size_m, model.elevation_m, model.top_m, model
                )
        return None

    def _mesh(self, model: Model) -> Mesh | None:
        if model.key not in self._loaded:
            self._loaded[model.key] = load_mesh(model, self.cache)
            if len(self._loaded) > MESHES_IN_MEMORY:
                self._loaded.popitem(last=False)
        self._loaded.move_to_end(model.key)
        return self._loaded[model.key]


def _kinds(model: Model) -> list[str]:
    width, depth, height = model.size_m
    if model.is_person:
        return ['person']
    if model.category == 'Doors and windows':
        return ['window' if 'window' in model.name.lower() else 'door']
    if model.category == 'Vehicles':
        return ['vehicle', 'outdoor'] if height < 1.3 else ['vehicle']
    if model.is_plant:
        kinds = ['plant']
        return [*kinds, 'furniture'] if max(width, depth) < 1.2 and height < 2.2 else kinds
    if model.category == 'Exterior':
        return ['outdoor']
    if model.category == 'Lights' and 'street' in model.name.lower():
        return ['outdoor']
    if model.category in INDOOR or model.category == 'Characters':
        if model.category == 'Lights' and (
            model.elevation_m > 1.5 or 'ceil' in model.name.lower()
        ):
            return ['ceiling lamp']
        if model.elevation_m > 0.05:
            return ['on wall']
        if max(width, depth) < 0.55 and height < 0.75:
            return ['small']
        return ['furniture'] if max(width, depth) < 2.8 and height < 2.5 else []
    return []


def _label(model: Model) -> int:
    if model.is_person:
        return PERSON
    if model.is_plant or model.category == 'Vehicles':
        return OTHER
    return WALL if model.category == 'Doors and windows' else FURNITURE


def _recoloured(rng: Rng, materials: tuple[Material, ...]) -> list[Material]:
    """Tint everything alike, and sometimes give cloth or wood to surfaces of one colour."""
    gain = np.exp(rng.normal(0, 0.25, 3)) if rng.random() < 0.5 else np.ones(3)
    repaint = rng.random() < 0.25
    painted = []
    for material in materials:
        color = np.clip(material.color * gain, 0.01, 1.0)
        if repaint and material.texture is None and rng.random() < 0.6:
            color = textures.random_color(rng, 0.1, 0.95) ** 2.2
        red, green, blue = (float(v) for v in color)
        painted.append(Material((red, green, blue), material.texture, material.gloss))
    return painted


class Solids:
    """Tables, shelves, lamps and stand-in people made of boxes and cylinders."""

    def pick(self, rng: Rng, kind: str) -> Item | None:
        """Return something new of a kind."""
        if kind == 'person':
            return _stand_in(rng)
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


def _stand_in(rng: Rng) -> Item:
    height = rng.uniform(1.1, 1.9)
    cloth = [textures.plain(textures.random_color(rng, 0.05, 0.9)) for _ in range(2)]
    skin = textures.plain(np.array([0.9, 0.7, 0.55]) * rng.uniform(0.4, 1.0))
    leg = 0.47 * height
    parts = [
        cylinder(0.08, leg, cloth[0], (-0.1, 0, 0)),
        cylinder(0.08, leg, cloth[0], (0.1, 0, 0)),
        cylinder(0.17, 0.36 * height, cloth[1], (0, 0, leg), top_radius_m=0.2),
        cylinder(0.1, 0.15 * height, skin, (0, 0, 0.85 * height), top_radius_m=0.09),
    ]
    return Item(merged(parts), PERSON, (0.44, 0.4, height))


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
    """Grow a tree or a bush: a trunk and lumps of leaves."""
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
