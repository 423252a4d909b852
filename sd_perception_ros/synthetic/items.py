"""Objects of scenes, and the interface of libraries of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sd_perception_ros.synthetic.assets import Model
from sd_perception_ros.synthetic.meshes import Mesh
from sd_perception_ros.synthetic.scene import PERSON

Float = NDArray[np.floating[Any]]
Rng = np.random.Generator
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
    An object, ready to be placed.

    :ivar mesh: metres, front towards -y, standing on z = 0, centred in x and y.
    :ivar label: its semantic class in `scene.py`.
    :ivar elevation_m: height of its lower side, above 0 for objects on walls.
    :ivar top_m: height at which small objects can stand on it; 0: none.
    :ivar model: the catalogue model to credit, None for our own solids.
    :ivar joints_m: (17, 3) of a person, in the order of `skeleton.JOINTS`, in the mesh's frame.
    :ivar sits: whether it needs something to sit on.
    """

    mesh: Mesh
    label: int
    size_m: tuple[float, float, float]
    elevation_m: float = 0.0
    top_m: float = 0.0
    model: Model | None = None
    joints_m: Float | None = None
    sits: bool = False


class Library(Protocol):
    """The source of the objects of scenes."""

    def pick(self, rng: Rng, kind: str) -> Item | None:
        """Return an item of a kind, or None if there is none."""


def person(mesh: Mesh, joints_m: Float, sits: bool = False) -> Item:
    """
    Return a person, centred, with the lowest point on the ground.

    :param joints_m: (17, 3) in the frame of the mesh.
    """
    corners = mesh.points.reshape(-1, 3)
    low, high = corners.min(0), corners.max(0)
    middle = np.array([*(low[:2] + high[:2]) / 2, low[2]], np.float32)
    x, y, z = (float(v) for v in high - low)
    joints = (joints_m - middle).astype(np.float32)
    return Item(mesh.placed(0.0, -middle), PERSON, (x, y, z), joints_m=joints, sits=sits)
