"""A scene under construction: parts, free ground, and credits."""

from __future__ import annotations

from dataclasses import dataclass, field
import math

import numpy as np

from sd_perception_ros.synthetic import textures
from sd_perception_ros.synthetic.assets import Model
from sd_perception_ros.synthetic.items import Float, Item, Library
from sd_perception_ros.synthetic.meshes import about_z, box, Mesh
from sd_perception_ros.synthetic.scene import FURNITURE, Part, Scene

Rng = np.random.Generator
Rectangle = tuple[float, float, float, float]  # x low, y low, x high, y high, metres
TRIES = 25


@dataclass(frozen=True)
class Stage:
    """
    A finished scene, with information for choosing views.

    :ivar ground: area in which a camera may stand.
    :ivar blocked: footprints of the objects in it.
    :ivar targets: world points to look at.
    :ivar details: world points of small objects on tables and shelves.
    :ivar models: the catalogue models in it.
    :ivar people: (17, 3) world joints of each person, by person number.
    """

    scene: Scene
    ground: Rectangle
    blocked: tuple[Rectangle, ...]
    targets: tuple[tuple[float, float, float], ...]
    models: tuple[Model, ...]
    people: tuple[Float, ...]
    details: tuple[tuple[float, float, float], ...] = ()


@dataclass
class Layout:
    """A scene under construction."""

    rng: Rng
    ground: Rectangle
    parts: list[Part] = field(default_factory=list)
    blocked: list[Rectangle] = field(default_factory=list)
    targets: list[tuple[float, float, float]] = field(default_factory=list)
    models: list[Model] = field(default_factory=list)
    people: list[Float] = field(default_factory=list)
    details: list[tuple[float, float, float]] = field(default_factory=list)

    def stage(self, scene: Scene) -> Stage:
        """Return the finished scene."""
        return Stage(
            scene,
            self.ground,
            tuple(self.blocked),
            tuple(self.targets),
            tuple(self.models),
            tuple(self.people),
            tuple(self.details),
        )

    def add(self, mesh: Mesh, label: int) -> None:
        """Add a mesh that occupies no ground."""
        self.parts.append(Part(mesh, label))

    def put(self, item: Item, x: float, y: float, z: float, angle_rad: float) -> None:
        """Add an item at a position; record its model and joints."""
        person = -1
        if item.joints_m is not None:
            person = len(self.people)
            joints = item.joints_m @ about_z(angle_rad).T + (x, y, z)
            self.people.append(joints.astype(np.float32))
        self.parts.append(Part(item.mesh.placed(angle_rad, (x, y, z)), item.label, person))
        if item.model is not None:
            self.models.append(item.model)

    def is_free(self, area: Rectangle, margin_m: float = 0.0) -> bool:
        """Whether a rectangle with a margin is free."""
        x0, y0, x1, y1 = area
        return not any(
            x0 - margin_m < b[2]
            and x1 + margin_m > b[0]
            and y0 - margin_m < b[3]
            and y1 + margin_m > b[1]
            for b in self.blocked
        )

    def stand_anywhere(self, item: Item, area: Rectangle, angle_rad: float) -> bool:
        """Put an item on free ground inside `area`; False if there is no room."""
        half_x, half_y = _half_extent(item, angle_rad)
        low_x, low_y, high_x, high_y = area
        if low_x + half_x >= high_x - half_x or low_y + half_y >= high_y - half_y:
            return False
        for _ in range(TRIES):
            x = float(self.rng.uniform(low_x + half_x, high_x - half_x))
            y = float(self.rng.uniform(low_y + half_y, high_y - half_y))
            if self._stand(item, x, y, angle_rad):
                return True
        return False

    def stand_along(self, item: Item, side: int) -> bool:
        """
        Put an item with its back to a side of the ground.

        :param side: quarter turns counter-clockwise from the far side (+y).
        """
        angle = side * math.pi / 2
        half_x, half_y = _half_extent(item, angle)
        low_x, low_y, high_x, high_y = self.ground
        gap = float(self.rng.uniform(0.01, 0.08))
        for _ in range(TRIES):
            x = float(self.rng.uniform(low_x + half_x, max(low_x + half_x, high_x - half_x)))
            y = float(self.rng.uniform(low_y + half_y, max(low_y + half_y, high_y - half_y)))
            x = (x, low_x + half_x + gap, x, high_x - half_x - gap)[side]
            y = (high_y - half_y - gap, y, low_y + half_y + gap, y)[side]
            if self._stand(item, x, y, angle):
                return True
        return False

    def _stand(self, item: Item, x: float, y: float, angle_rad: float) -> bool:
        half_x, half_y = _half_extent(item, angle_rad)
        area = (x - half_x, y - half_y, x + half_x, y + half_y)
        if not self.is_free(area, 0.03):
            return False
        self.put(item, x, y, 0.0, angle_rad)
        self.blocked.append(area)
        self.targets.append((x, y, item.size_m[2] * 0.6))
        return True

    def decorate(
        self, library: Library, item: Item, at: tuple[float, float], angle: float
    ) -> None:
        """Put up to four small items onto the top of an item at `at`."""
        for side in (-0.33, -0.11, 0.11, 0.33):
            small = library.pick(self.rng, 'small')
            if small is None or self.rng.random() < 0.4:
                continue
            room_m = item.size_m[0] * 0.22, item.size_m[1] * 0.8
            if max(small.size_m[:2]) > min(max(room_m), 0.45) or small.size_m[0] > 2 * room_m[0]:
                continue
            along = side * item.size_m[0]
            across = float(self.rng.uniform(-0.15, 0.15)) * item.size_m[1]
            x = at[0] + along * math.cos(angle) - across * math.sin(angle)
            y = at[1] + along * math.sin(angle) + across * math.cos(angle)
            self.put(small, x, y, item.top_m, float(self.rng.uniform(-math.pi, math.pi)))
            self.details.append((x, y, item.top_m + small.size_m[2] / 2))

    def last_place(self) -> tuple[float, float]:
        """Return the centre of the item that was placed last."""
        x0, y0, x1, y1 = self.blocked[-1]
        return (x0 + x1) / 2, (y0 + y1) / 2

    def add_people(self, library: Library, area: Rectangle) -> None:
        """Put 0 to 3 people, rarely 6, onto free ground; seated ones get a seat."""
        for _ in range(int(self.rng.choice([0, 0, 1, 1, 1, 2, 3, 6]))):
            person = library.pick(self.rng, 'person')
            if person is None:
                continue
            angle = float(self.rng.uniform(-math.pi, math.pi))
            if not self.stand_anywhere(person, area, angle):
                continue
            if person.sits:
                self._add_seat(person, self.last_place(), angle)

    def _add_seat(self, person: Item, at: tuple[float, float], angle_rad: float) -> None:
        height_m = seat_height_m(person)
        if height_m > 0.12:
            look = textures.plain(textures.random_color(self.rng))
            back = person.size_m[1] / 2 - 0.22
            seat = box((0.42, 0.4, height_m), look, (0, back, 0))
            self.add(seat.placed(angle_rad, (*at, 0.0)), FURNITURE)


def seat_height_m(person: Item) -> float:
    """Return the lowest height of the rear third of a sitting person, near the middle."""
    points = person.mesh.points.reshape(-1, 3)
    rear = points[:, 1] > points[:, 1].max() - 0.3
    middle = np.abs(points[:, 0] - np.median(points[:, 0])) < 0.12
    chosen = points[rear & middle, 2]
    return float(chosen.min()) if len(chosen) else 0.0


def _half_extent(item: Item, angle_rad: float) -> tuple[float, float]:
    cosine, sine = abs(math.cos(angle_rad)), abs(math.sin(angle_rad))
    x, y = item.size_m[0] / 2, item.size_m[1] / 2
    return x * cosine + y * sine, x * sine + y * cosine
