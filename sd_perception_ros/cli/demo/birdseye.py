"""The demo seen from above: the cells that a robot would mark, beside the true ones."""

from __future__ import annotations

from collections.abc import Mapping
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sd_perception_ros.geometry.occupancy_grid import draw_grids, GridShape, marked, occupied
from sd_perception_ros.geometry.pinhole import back_project, BODY_FROM_OPTICAL, mounting
from sd_perception_ros.metric_depth.alignment import align, Limits
from sd_perception_ros.metric_depth.ground import find_ground
from sd_perception_ros.metric_depth.scale import to_metres
from sd_perception_ros.ros.replay.sources import read_camera
from sd_perception_ros.tasks.segmentation import ROOM_CLASSES
from sd_perception_ros.types import Camera, Float, UInt8

LABEL, TRUE_LABEL = 'obstacles (red: phantoms)', 'true obstacles, to 4 m'
# What was published, that metres are made from here.
NEEDED = ('depth/relative', 'normals/image', 'segmentation/labels')
GRID = GridShape(resolution_m=0.1, range_m=4.0)
NEAR_CELLS = 2  # 0.2 m: a cell counts as right with a true one so near
MAX_RANGE_M = 10.0
FLOOR = ROOM_CLASSES.index('floor')
WITHHELD = (64, 64, 72)


def birdseye(
    values: Mapping[str, NDArray[Any]], truth_m: Float, camera_file: Path
) -> tuple[UInt8, UInt8]:
    """
    Draw the obstacles of a frame from above, and the true ones.

    The scale comes from the height of the camera alone. White is right, red a phantom, blue
    missed; the robot, green, looks up. A frame whose metres would be withheld is grey.

    :param values: what was published for the frame, by topic.
    :param truth_m: (H, W) the true depth.
    :param camera_file: the frame's camera.json.
    :returns: two pictures of the size of the frame.
    """
    about = json.loads(camera_file.read_text(encoding='utf-8'))
    camera = read_camera(camera_file)
    place = mounting(0, 0, about['camera_height_m'], about['roll_deg'], about['pitch_deg'], 0)
    place = place.after(BODY_FROM_OPTICAL)
    points = np.asarray(place.apply(back_project(truth_m, camera)), np.float32)
    true = occupied(points, place.translation, GRID)
    depth_m = _metres(values, camera, about)
    size = (camera.width, camera.height)
    seen = _view(draw_grids(true, true), size)
    if depth_m is None:
        return np.full_like(seen, WITHHELD), seen
    found = marked(depth_m, camera, place, GRID)
    return _view(draw_grids(found, true, NEAR_CELLS), size), seen


def _metres(
    values: Mapping[str, NDArray[Any]], camera: Camera, about: Mapping[str, float]
) -> Float | None:
    """Return depth in metres; None where it would be withheld."""
    relative, normals, labels = (values[topic] for topic in NEEDED)
    height_m, pitch_deg = about['camera_height_m'], about['pitch_deg']
    ground = find_ground(normals, camera, height_m, pitch_deg, labels == FLOOR)
    fit = align(relative, ground.references, False, Limits())
    if fit.alignment is None or fit.quality.problem:
        return None
    return to_metres(relative, fit.alignment, 0.0, MAX_RANGE_M)


def _view(grid: UInt8, size: tuple[int, int]) -> UInt8:
    """Cut out what is ahead and enlarge it: all of the range, as wide as the picture is."""
    ahead = len(grid) // 2 + 2
    half = round(ahead * size[0] / size[1] / 2)
    middle = len(grid) // 2
    part = np.ascontiguousarray(grid[:ahead, middle - half : middle + half])
    return np.asarray(cv2.resize(part, size, interpolation=cv2.INTER_NEAREST), np.uint8)
