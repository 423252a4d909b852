"""Where to put the camera: in free space, looking at something."""

from __future__ import annotations

import math

import numpy as np

from sd_perception_ros.synthetic.layout import Stage
from sd_perception_ros.synthetic.render import ground_truth, GroundTruth
from sd_perception_ros.synthetic.scene import View
from sd_perception_ros.types import Camera

Rng = np.random.Generator
TRIES = 60
CLEARANCE_M = 0.5
QUICK_STEP_PX = 6
PEOPLE_SHARE = 0.5  # of the views where there is somebody to look at


def pinhole(fov_deg: float, width: int, height: int) -> Camera:
    """Return a centred camera with square pixels and this horizontal field of view."""
    focal_px = width / 2 / math.tan(math.radians(fov_deg) / 2)
    return Camera(focal_px, focal_px, (width - 1) / 2, (height - 1) / 2, width, height)


def random_view(rng: Rng, stage: Stage, width: int, height: int) -> View | None:
    """
    Draw a view: 50-85 degrees wide, 0.3-1.7 m high, pitch -5 (up) to 16 (down) degrees.

    :returns: None where no acceptable view was found; make another scene then.
    """
    for _ in range(TRIES):
        position = _free_position(rng, stage)
        if position is None:
            return None
        yaw_deg = _yaw_to_something(rng, stage, position)
        view = View(
            position,
            yaw_deg,
            float(rng.uniform(-5, 16)),
            float(np.clip(rng.normal(0, 1), -3, 3)),
            pinhole(float(rng.uniform(50, 85)), width, height),
        )
        if is_worth_seeing(ground_truth(stage.scene, view, QUICK_STEP_PX)):
            return view
    return None


def is_worth_seeing(seen: GroundTruth) -> bool:
    """Refuse a view that is mostly one class, or mostly something right before the lens."""
    most_common = np.bincount(seen.semantic.ravel()).max() / seen.semantic.size
    blocked = (seen.depth_m < 0.4).mean()
    return bool(most_common <= 0.85 and blocked <= 0.3 and np.median(seen.depth_m) > 0.7)


def is_clear(stage: Stage, x: float, y: float, clearance_m: float = CLEARANCE_M) -> bool:
    """Whether nothing stands within the clearance of a point of the ground."""
    for x0, y0, x1, y1 in stage.blocked:
        distance = math.hypot(max(x0 - x, x - x1, 0), max(y0 - y, y - y1, 0))
        if distance < clearance_m:
            return False
    return True


def _free_position(rng: Rng, stage: Stage) -> np.ndarray | None:
    x0, y0, x1, y1 = stage.ground
    for _ in range(TRIES):
        x = float(rng.uniform(x0 + 0.35, x1 - 0.35))
        y = float(rng.uniform(y0 + 0.35, y1 - 0.35))
        if is_clear(stage, x, y):
            return np.array([x, y, rng.uniform(0.3, 1.7)], np.float32)
    return None


def _yaw_to_something(rng: Rng, stage: Stage, position: np.ndarray) -> float:
    """Head for somebody or something at least 1 m away, or for the middle, and not exactly."""
    x0, y0, x1, y1 = stage.ground
    things, people = (
        [(x, y) for x, y, _ in points if math.dist((x, y), position[:2]) > 1.0]
        for points in (stage.targets, [joints.mean(0) for joints in stage.people])
    )
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    choices = people if rng.random() < PEOPLE_SHARE else things
    choices = choices or things
    if choices and rng.random() < 0.85:
        x, y = choices[int(rng.integers(len(choices)))]
    heading = math.atan2(x - float(position[0]), y - float(position[1]))
    return math.degrees(heading + float(rng.uniform(-0.35, 0.35)))
