"""A short film with ground truth: a camera moves through a held-out room."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
import json
import math
from pathlib import Path

import numpy as np

from sd_perception_ros.safe_save import write_bytes
from sd_perception_ros.synthetic.assets import attribution
from sd_perception_ros.synthetic.dataset import make_library, one_thread, Recipe
from sd_perception_ros.synthetic.frames import Frame, write_frame
from sd_perception_ros.synthetic.items import Library
from sd_perception_ros.synthetic.joints import figures
from sd_perception_ros.synthetic.layout import Stage
from sd_perception_ros.synthetic.render import develop, exposure, ground_truth, Look, radiance
from sd_perception_ros.synthetic.rooms import make_room
from sd_perception_ros.synthetic.scene import View
from sd_perception_ros.synthetic.views import is_clear, is_worth_seeing, pinhole

Rng = np.random.Generator
RATE_HZ = 10.0
FOV_DEG = 68.0
PATH_CLEARANCE_M = 0.4
JPEG_QUALITY = 92
PASSES = 3  # averaged renderings: the noise of one is visible in a film
MAX_ROOMS = 50
TRIES = 300


@dataclass(frozen=True)
class Walk:
    """
    A smooth walk.

    :ivar start: x, y in metres and yaw in degrees.
    :ivar end: the same at the last frame.
    """

    start: tuple[float, float, float]
    end: tuple[float, float, float]

    def view(self, share: float, width: int, height: int) -> View:
        """Return the view at a fraction, 0..1, of the walk; it starts and stops smoothly."""
        eased = share * share * (3 - 2 * share)
        x, y, yaw_deg = (a + (b - a) * eased for a, b in zip(self.start, self.end, strict=True))
        step = math.sin(2 * math.pi * 8 * share)  # the robot sways a little
        position = np.array([x, y, 1.15 + 0.006 * step], np.float32)
        pitch_deg = 5.0 + 3.0 * math.sin(math.pi * share)
        camera = pinhole(FOV_DEG, width, height)
        return View(position, yaw_deg, pitch_deg, 0.4 * step, camera)


def find_walk(rng: Rng, stage: Stage) -> Walk | None:
    """Draw a collision-free walk of 1 to 2.2 m that turns 15 to 60 degrees."""
    x0, y0, x1, y1 = stage.ground
    for _ in range(TRIES):
        a, b = (rng.uniform([x0 + 0.4, y0 + 0.4], [x1 - 0.4, y1 - 0.4]) for _ in range(2))
        if not 1.0 <= math.dist(a, b) <= 2.2 or not stage.targets:
            continue
        points = [a + (b - a) * t for t in np.linspace(0, 1, 15)]
        if not all(is_clear(stage, float(p[0]), float(p[1]), PATH_CLEARANCE_M) for p in points):
            continue
        seen = rng.integers(len(stage.targets), size=2)
        yaws = [
            math.degrees(math.atan2(stage.targets[i][0] - p[0], stage.targets[i][1] - p[1]))
            for i, p in zip(seen, (a, b), strict=True)
        ]
        turn_deg = (yaws[1] - yaws[0] + 180) % 360 - 180
        if not 15 <= abs(turn_deg) <= 60:
            continue
        start = (float(a[0]), float(a[1]), yaws[0])
        walk = Walk(start, (float(b[0]), float(b[1]), yaws[0] + turn_deg))
        views = [walk.view(t, 320, 240) for t in np.linspace(0, 1, 7)]
        if all(is_worth_seeing(ground_truth(stage.scene, view, 8)) for view in views):
            return walk
    return None


def write_sequence(
    recipe: Recipe, folder: Path, cache: Path, frames: int, bodies: Path | None = None
) -> Iterator[int]:
    """
    Render a film into `folder/frames`, and describe it in sequence.json; yields after each frame.

    :param recipe: its seed chooses the room and the walk; `scenes` and `views` are ignored.
    :param bodies: the bank of the recipe, if there is one.
    :raises ValueError: no room with a free path was found.
    """
    with one_thread():
        stage, walk, room = _room_with_walk(recipe, make_library(recipe, cache, bodies))
        rng = np.random.default_rng([recipe.seed, room, 1])
        look = Look(0.22, np.ones(3, np.float32), 1.05, 1.0, 0.006, 0.4)
        gain = 0.0
        for number in range(frames):
            view = walk.view(number / max(frames - 1, 1), recipe.width, recipe.height)
            passes = [radiance(stage.scene, view, rng) for _ in range(PASSES)]
            light = np.mean([seen.light for seen in passes], axis=0)
            gain = gain or exposure(light, look)  # of the first frame, to avoid flicker
            image = develop(light, look, gain, rng)
            truth = ground_truth(stage.scene, view)
            people = figures(stage.scene, view, stage.people)
            # All passes use the same rays, so one is enough.
            frame = Frame(view, image, truth, passes[0].foreground, passes[0].matte, people)
            write_frame(folder / 'frames', f'{number:06d}_0', frame, JPEG_QUALITY)
            yield number
    credits_text = attribution(stage.models, recipe.bodies != 'none')
    write_bytes(folder / 'ATTRIBUTION.md', credits_text.encode())
    about = {
        'rate_hz': RATE_HZ,
        'frame_id': 'camera_optical_frame',
        'license': 'CC-BY 3.0',
        'attribution': 'ATTRIBUTION.md',
        'seed': recipe.seed,
        'held_out': recipe.held_out,
    }
    write_bytes(folder / 'sequence.json', (json.dumps(about, indent=2) + '\n').encode())


def _room_with_walk(recipe: Recipe, library: Library) -> tuple[Stage, Walk, int]:
    for room in range(MAX_ROOMS):
        rng = np.random.default_rng([recipe.seed, room])
        stage = make_room(rng, library)
        walk = find_walk(rng, stage)
        if walk is not None:
            return stage, walk, room
    raise ValueError(f'seed {recipe.seed}: no free path in {MAX_ROOMS} rooms; use another seed')
