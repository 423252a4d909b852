"""The film from above: cells that a costmap would mark, beside the true ones."""

from __future__ import annotations

from collections.abc import Mapping
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sd_perception_ros.geometry.occupancy_grid import (
    draw_grids,
    grid_from_depth,
    grid_from_points,
    GridGeometry,
)
from sd_perception_ros.geometry.pinhole import back_project, BODY_FROM_OPTICAL, mounting
from sd_perception_ros.metric_depth.estimator import MetricDepthEstimator
from sd_perception_ros.metric_depth.options import ScaleOptions
from sd_perception_ros.ros.replay.recorder import VALUE_TOPICS
from sd_perception_ros.ros.replay.sources import read_camera
from sd_perception_ros.tasks.segmentation import ROOM_CLASSES
from sd_perception_ros.types import DepthMap, Float, LabelMap, NormalMap, Prediction, UInt8

LABEL, TRUE_LABEL = 'obstacles (red: phantoms)', 'true obstacles, to 4 m'
GRID = GridGeometry(resolution_m=0.1, range_m=4.0)
NEAR_CELLS = 2  # 0.2 m: largest distance of a correct cell from a true one
MAX_RANGE_M = 10.0
# Nominal mounting of the camera, as in config/nav2/perception.yaml; not the exact one.
GROUND = ScaleOptions(source='ground', camera_height_m=1.15, camera_pitch_deg=6.5)
TASKS = ('depth', 'normals', 'segmentation')  # tasks for metric depth
NEEDED = tuple(VALUE_TOPICS[task] for task in TASKS)  # their topics
WITHHELD = (64, 64, 72)


def birdseye(
    values: Mapping[str, NDArray[Any]], truth_m: Float, camera_file: Path
) -> tuple[UInt8, UInt8]:
    """
    Draw the obstacles of a frame from above, and the true ones.

    The scale is computed from the camera height only, with the nominal mounting; the camera of
    the film pitches by 1.5 degrees. White: correct. Red: phantom. Blue: missed. Green: the robot,
    which faces up. Grey: no metric depth for this frame.

    :param values: published values of the frame by topic: those of `NEEDED`.
    :param truth_m: (H, W) float32, true depth.
    :param camera_file: camera.json of the frame.
    :returns: two (H, W, 3) RGB images.
    """
    pose = json.loads(camera_file.read_text(encoding='utf-8'))
    camera = read_camera(camera_file)
    true_mounting = mounting(0, 0, pose['camera_height_m'], pose['roll_deg'], pose['pitch_deg'], 0)
    base_from_optical = true_mounting.after(BODY_FROM_OPTICAL)
    points = np.asarray(base_from_optical.apply(back_project(truth_m, camera)), np.float32)
    true = grid_from_points(points, base_from_optical.translation, GRID)
    size = (camera.width, camera.height)
    true_picture = _view(draw_grids(true, true), size)
    relative, normals, labels = (values[topic] for topic in NEEDED)
    predictions: dict[str, Prediction] = {
        'depth': DepthMap(relative),
        'normals': NormalMap(normals),
        'segmentation': LabelMap(labels, np.ones(labels.shape, np.float32)),
    }
    # A new estimator for each frame: single frames have no previous frame.
    estimator = MetricDepthEstimator(GROUND, TASKS, ROOM_CLASSES, max_range_m=MAX_RANGE_M)
    depth_m = estimator.update(predictions, camera, 0.0).depth_m
    if depth_m is None:
        return np.full_like(true_picture, WITHHELD), true_picture
    nominal = mounting(0, 0, GROUND.camera_height_m, 0, GROUND.camera_pitch_deg, 0)
    found = grid_from_depth(depth_m, camera, nominal.after(BODY_FROM_OPTICAL), GRID)
    return _view(draw_grids(found, true, NEAR_CELLS), size), true_picture


def _view(grid: UInt8, size: tuple[int, int]) -> UInt8:
    """Crop the part in front of the robot and enlarge it to the size of an image."""
    ahead = len(grid) // 2 + 2
    half = round(ahead * size[0] / size[1] / 2)
    middle = len(grid) // 2
    part = np.ascontiguousarray(grid[:ahead, middle - half : middle + half])
    return np.asarray(cv2.resize(part, size, interpolation=cv2.INTER_NEAREST), np.uint8)
