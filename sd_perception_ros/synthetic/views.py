"""Camera views: from free space, towards an object."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from sd_perception_ros.synthetic.layout import Stage
from sd_perception_ros.synthetic.render import ground_truth, GroundTruth
from sd_perception_ros.synthetic.scene import View
from sd_perception_ros.types import Camera

Rng = np.random.Generator
Stand = tuple[NDArray[np.float32], float, float]  # world position, yaw and pitch in degrees
TRIES = 60
CLEARANCE_M = 0.5
QUICK_STEP_PX = 6
NEAR_M, NEAR_DETAIL_M = 0.4, 0.2
LOWEST_M, HIGHEST_M = 0.2, 1.9
DETAIL_M = 0.4, 1.2  # distance from a small object
PEOPLE_SHARE = 0.5  # fraction of the views, if there are people
CLOSE_SHARE = 0.2  # fraction of these at close range
FREE_SHARE = 0.6  # fraction of the distance to a small object that must be free
DETAIL_SHARE = 0.25  # fraction of the views close to a small object, if there are any


def pinhole(fov_deg: float, width: int, height: int) -> Camera:
    """Return a centred camera with square pixels and this horizontal field of view."""
    focal_px = width / 2 / math.tan(math.radians(fov_deg) / 2)
    return Camera(focal_px, focal_px, (width - 1) / 2, (height - 1) / 2, width, height)


def random_view(rng: Rng, stage: Stage, width: int, height: int) -> View | None:
    """
    Draw a view: 28-90 degrees wide, 0.2-1.9 m high, pitch -15 (up) to 30 (down) degrees.

    Some are 0.7 to 2 m in front of a person, at any pitch; others are 0.4 to 1.2 m from a small
    object on a table.

    :returns: None if no acceptable view was found; make another scene then.
    """
    for _ in range(TRIES):
        near_m = NEAR_M
        if stage.details and rng.random() < DETAIL_SHARE:
            stand, near_m = _close_to_detail(rng, stage), NEAR_DETAIL_M
        elif stage.people and rng.random() < CLOSE_SHARE:
            stand = _close_to_person(rng, stage)
        else:
            stand = _free_position(rng, stage)
        if stand is None:
            continue
        position, yaw_deg, pitch_deg = stand
        roll_deg = float(np.clip(rng.normal(0, 2), -6, 6))
        # Uniform in the logarithm: as many between 28 and 50 degrees as between 50 and 90.
        camera = pinhole(float(np.exp(rng.uniform(*np.log((28, 90))))), width, height)
        view = View(position, yaw_deg, pitch_deg, roll_deg, camera)
        if is_worth_seeing(ground_truth(stage.scene, view, QUICK_STEP_PX), near_m):
            return view
    return None


def is_worth_seeing(seen: GroundTruth, near_m: float = NEAR_M) -> bool:
    """
    Refuse a view of mostly one class, or mostly of something close to the camera.

    :param near_m: surfaces nearer than this are close to the camera.
    """
    most_common = np.bincount(seen.semantic.ravel()).max() / seen.semantic.size
    blocked = (seen.depth_m < near_m).mean()
    far_enough = np.median(seen.depth_m) > 1.25 * near_m
    return bool(most_common <= 0.85 and blocked <= 0.3 and far_enough)


def is_clear(stage: Stage, x: float, y: float, clearance_m: float = CLEARANCE_M) -> bool:
    """Whether a point of the ground is free within the clearance."""
    for x0, y0, x1, y1 in stage.blocked:
        distance = math.hypot(max(x0 - x, x - x1, 0), max(y0 - y, y - y1, 0))
        if distance < clearance_m:
            return False
    return True


def _free_position(rng: Rng, stage: Stage) -> Stand | None:
    """Draw a position on free ground."""
    x0, y0, x1, y1 = stage.ground
    for _ in range(TRIES):
        x = float(rng.uniform(x0 + 0.35, x1 - 0.35))
        y = float(rng.uniform(y0 + 0.35, y1 - 0.35))
        if is_clear(stage, x, y):
            position = np.array([x, y, rng.uniform(LOWEST_M, HIGHEST_M)], np.float32)
            return position, _yaw_to_target(rng, stage, position), float(rng.uniform(-15, 30))
    return None


def _close_to_person(rng: Rng, stage: Stage) -> Stand | None:
    """Draw a view close to a person, towards a joint; None if something is in the way."""
    joints = stage.people[int(rng.integers(len(stage.people)))]
    x, y, z = joints[int(rng.integers(len(joints)))].tolist()
    angle, distance_m = rng.uniform(0, 2 * math.pi), rng.uniform(0.7, 2.0)
    to_x, to_y = distance_m * math.sin(angle), distance_m * math.cos(angle)
    x0, y0, x1, y1 = stage.ground
    inside = x0 < x - to_x < x1 and y0 < y - to_y < y1
    if not inside or not is_clear(stage, x - to_x, y - to_y, 0.25):
        return None
    position = np.array([x - to_x, y - to_y, rng.uniform(0.5, 1.8)], np.float32)
    pitch = math.atan2(float(position[2]) - z, distance_m)
    aside, above = rng.uniform(-0.2, 0.2), rng.uniform(-0.1, 0.1)
    return position, math.degrees(angle + aside), math.degrees(pitch + above)


def _close_to_detail(rng: Rng, stage: Stage) -> Stand | None:
    """Draw a view of a small object, level or from above; None if something is in the way."""
    thing = np.array(stage.details[int(rng.integers(len(stage.details)))], np.float32)
    heading, down = rng.uniform(0, 2 * math.pi), rng.uniform(math.radians(-5), math.radians(55))
    forward = np.array(
        [
            math.sin(heading) * math.cos(down),
            math.cos(heading) * math.cos(down),
            -math.sin(down),
        ],
        np.float32,
    )
    distance_m = float(rng.uniform(*DETAIL_M))
    position = thing - forward * distance_m
    x0, y0, x1, y1 = stage.ground
    x, y, z = position.tolist()
    if not (x0 < x < x1 and y0 < y < y1 and LOWEST_M <= z <= HIGHEST_M):
        return None
    free_m = stage.scene.free_distance(position[None], forward[None])[0]
    if free_m < FREE_SHARE * distance_m:
        return None
    aside_deg, above_deg = rng.uniform(-10, 10, 2).tolist()
    return position, math.degrees(heading) + aside_deg, math.degrees(down) + above_deg


def _yaw_to_target(rng: Rng, stage: Stage, position: NDArray[np.float32]) -> float:
    """Return the yaw to a person or object at least 1 m away, or to the middle, with noise."""
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
