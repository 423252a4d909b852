"""Baked people: bodies in many poses, in clothes of random colours."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any
import zipfile

import numpy as np
from numpy.typing import NDArray

from sd_perception_ros.git_lfs import refuse_lfs_pointer
from sd_perception_ros.paths import printable
from sd_perception_ros.synthetic import textures
from sd_perception_ros.synthetic.items import Item, Library, person
from sd_perception_ros.synthetic.meshes import Material, Mesh

Float = NDArray[np.floating[Any]]
Rng = np.random.Generator
PARTS = SKIN, TOP, BOTTOM, SHOES, HAIR, EYES = range(6)
SHARE = 0.5  # fraction of the people, if there are others
ARRAYS = ('points', 'normals', 'part', 'joints', 'sits', 'faces', 'uv')


class Bodies:
    """
    A library with half of its people from a bank of N bodies with V vertices and F triangles.

    The file (.npz) has points (N, V, 3) in metres and normals (N, V, 3) times 127, front towards
    -y; part (N, F), the cover of each triangle; joints (N, 17, 3); sits (N,); and for all bodies
    faces (F, 3) and uv (F, 3, 2).
    """

    def __init__(self, others: Library, file: Path, held_out: bool) -> None:
        """
        Read a bank.

        :param others: library of everything else.
        :param held_out: use the last tenth of the bank only, otherwise the others.
        :raises ValueError: the file is not such a bank.
        """
        self.others = others
        refuse_lfs_pointer(file)
        try:
            opened = np.load(file, allow_pickle=False)
        except (ValueError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(
                f"expected a bank of bodies, but '{printable(file)}' cannot be read ({error}); "
                'make one with the bake-bodies command'
            ) from None
        with opened as arrays:
            absent = [name for name in ARRAYS if name not in arrays]
            if absent:
                raise ValueError(
                    f"expected a bank of bodies, but '{file}' lacks {', '.join(absent)}; "
                    'make one with the bake-bodies command'
                )
            self._bank = {name: arrays[name] for name in ARRAYS}
        count = len(self._bank['points'])
        first = count - max(1, count // 10)
        self.numbers = range(first, count) if held_out else range(first)
        if not self.numbers:
            raise ValueError(f"expected at least two bodies, '{file}' holds {count}")

    def pick(self, rng: Rng, kind: str) -> Item | None:
        """Return an item of a kind, or None if there is none."""
        if kind == 'person' and rng.random() < SHARE:
            return self.body(rng)
        return self.others.pick(rng, kind)

    def body(self, rng: Rng) -> Item:
        """Return a random body in random clothes."""
        number = self.numbers[int(rng.integers(len(self.numbers)))]
        bank = self._bank
        points = bank['points'][number].astype(np.float32)[bank['faces']]
        normals = bank['normals'][number].astype(np.float32)[bank['faces']]
        normals /= np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-6)
        kinds = bank['part'][number].astype(np.int32)
        mesh = Mesh(points, bank['uv'].astype(np.float32), normals, kinds, _wardrobe(rng))
        return person(mesh, bank['joints'][number], bool(bank['sits'][number]))


def digest(file: Path) -> str:
    """Return the SHA-256 of a bank, its id in a recipe."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _wardrobe(rng: Rng) -> tuple[Material, ...]:
    """Draw materials of the parts, in the order of PARTS."""
    skin = np.array([0.92, 0.72, 0.58]) * rng.uniform(0.3, 1.05) * np.exp(rng.normal(0, 0.04, 3))
    hair = np.array([0.5, 0.36, 0.22]) * rng.uniform(0.15, 1.6)
    return (
        textures.plain(np.clip(skin, 0, 1), 0.1),
        _cloth(rng, 0.05, 0.95),
        _cloth(rng, 0.05, 0.7),
        textures.plain(textures.random_color(rng, 0.03, 0.6), 0.2),
        textures.plain(np.clip(hair, 0, 1), 0.1),
        textures.plain(np.full(3, 0.25), 0.5),
    )


def _cloth(rng: Rng, low: float, high: float) -> Material:
    color = textures.random_color(rng, low, high)
    if rng.random() < 0.4:
        return textures.material(rng, textures.CLOTHS, color)
    return textures.plain(color)
