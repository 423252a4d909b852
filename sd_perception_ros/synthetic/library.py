"""Furniture and people of the catalogues, by kind, some of them reserved for evaluation."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import numpy as np

from sd_perception_ros.synthetic import textures
from sd_perception_ros.synthetic.assets import INDOOR, Model, read_catalogs
from sd_perception_ros.synthetic.items import Item, KINDS
from sd_perception_ros.synthetic.joints import catalog_joints
from sd_perception_ros.synthetic.meshes import Material, Mesh
from sd_perception_ros.synthetic.obj import load_mesh
from sd_perception_ros.synthetic.scene import FURNITURE, OTHER, PERSON, WALL

Rng = np.random.Generator
MESHES_IN_MEMORY = 48


class Catalog:
    """The models of the furniture catalogues, those for training or those held out."""

    def __init__(self, folder: Path, cache: Path, held_out: bool) -> None:
        """
        Read the catalogues.

        :param cache: folder for parsed meshes; created when needed.
        :param held_out: use only the reserved models, otherwise only the others.

        People with unknown joints (lying ones) are left out: images with unlabelled people would
        be wrong training data.
        """
        self.cache = cache
        self._loaded: OrderedDict[str, Mesh | None] = OrderedDict()
        self._kinds: dict[str, list[Model]] = {kind: [] for kind in KINDS}
        self._joints = catalog_joints()
        for model in read_catalogs(folder):
            if model.is_person and model.key not in self._joints:
                continue
            if model.held_out == held_out:
                for kind in _kinds(model):
                    self._kinds[kind].append(model)

    def models(self, kind: str) -> list[Model]:
        """Return every model of a kind."""
        return list(self._kinds[kind])

    def pick(self, rng: Rng, kind: str) -> Item | None:
        """Return a random model of a kind, sometimes recoloured."""
        models = self._kinds[kind]
        for _ in range(3 if models else 0):
            model = models[int(rng.integers(len(models)))]
            mesh = self._mesh(model)
            if mesh is not None:
                if not model.is_person and not model.is_plant:
                    mesh = mesh.painted(_recoloured(rng, mesh.materials))
                return Item(
                    mesh,
                    _label(model),
                    model.size_m,
                    model.elevation_m,
                    model.top_m,
                    model,
                    joints_m=self._joints.get(model.key),
                    sits=model.is_person and 'sit' in model.name.lower(),
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
    """Tint all materials alike; sometimes replace surfaces of one colour by cloth or wood."""
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
