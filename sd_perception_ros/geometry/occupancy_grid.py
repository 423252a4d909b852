"""From points to the cells that an obstacle map marks, and how right these are."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from sd_perception_ros.geometry.pinhole import back_project, Transform
from sd_perception_ros.geometry.point_cloud import voxels, without_edges
from sd_perception_ros.types import Camera, Float, UInt8

Bool = NDArray[np.bool_]

# Colours of a comparison: nothing, right, phantom, missed, and the robot.
_NOTHING, _RIGHT, _PHANTOM, _MISSED = (28, 28, 32), (225, 225, 225), (235, 70, 50), (60, 130, 255)
_ROBOT = (60, 200, 90)
# How config/nav2/perception.yaml makes points of depth.
MAX_JUMP, VOXEL_M, VOXEL_MIN_POINTS = 0.04, 0.05, 3


@dataclass(frozen=True)
class GridShape:
    """
    A grid around the robot, x forward and y left, and which points mark it.

    The rules are those of Nav2's obstacle layer: a point marks the cell that it falls into if its
    height is within limits and its distance from the sensor below the range; NaN never marks.
    """

    resolution_m: float = 0.05
    range_m: float = 4.0
    min_height_m: float = 0.15
    max_height_m: float = 2.0

    @property
    def side(self) -> int:
        """Count the cells along x, and along y."""
        return 2 * round(self.range_m / self.resolution_m)


@dataclass(frozen=True)
class Scores:
    """
    How right the marked cells are.

    :ivar precision: share of the marked cells with a true one within the tolerance.
    :ivar recall: share of the true cells with a marked one within the tolerance.
    :ivar phantoms: groups of touching marked cells, none of them near a true one.
    """

    precision: float
    recall: float
    phantoms: int

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total else 0.0


def marked(depth_m: Float, camera: Camera, place: Transform, shape: GridShape) -> Bool:
    """
    Mark the cells that a picture's depth marks by way of the cloud that Nav2 gets.

    :param depth_m: (H, W), NaN or infinite where there is no surface.
    :param place: of the optical frame in the robot's.
    :returns: as `occupied`.
    """
    points = back_project(without_edges(depth_m, MAX_JUMP), camera).reshape(-1, 3)
    points, _ = voxels(points[np.isfinite(points[:, 2])], VOXEL_M, VOXEL_MIN_POINTS)
    return occupied(np.asarray(place.apply(points), np.float32), place.translation, shape)


def occupied(points: Float, sensor: NDArray[np.float64], shape: GridShape) -> Bool:
    """
    Mark the cells that points fall into.

    :param points: (..., 3) metres in the robot's frame, NaN where unknown.
    :param sensor: (3,) where the camera is in that frame.
    :returns: (side, side) bool; row 0 is farthest ahead, column 0 farthest to the left.
    """
    points = points.reshape(-1, 3)
    points = points[np.isfinite(points).all(-1)]
    low, high = shape.min_height_m, shape.max_height_m
    marks = (points[:, 2] >= low) & (points[:, 2] <= high)
    marks &= ((points - sensor) ** 2).sum(-1) < shape.range_m**2
    cells = np.floor(points[marks, :2] / shape.resolution_m).astype(np.intp)
    row_column = shape.side // 2 - 1 - cells
    row_column = row_column[((row_column >= 0) & (row_column < shape.side)).all(-1)]
    grid = np.zeros((shape.side, shape.side), np.bool_)
    grid[row_column[:, 0], row_column[:, 1]] = True
    return grid


def compare(found: Bool, true: Bool, tolerance: int = 0) -> Scores:
    """
    Compare marked cells with the true ones.

    :param tolerance: cells; two are near that are at most so many rows and columns apart.
    """
    near_true, near_found = _grown(true, tolerance), _grown(found, tolerance)
    groups, labels = cv2.connectedComponents(found.astype(np.uint8), connectivity=8)
    real = np.unique(labels[found & near_true])
    return Scores(
        float(near_true[found].mean()) if found.any() else 1.0,
        float(near_found[true].mean()) if true.any() else 1.0,
        groups - 1 - len(real),
    )


def draw_grids(found: Bool, true: Bool, tolerance: int = 0) -> UInt8:
    """
    Show both grids from above: right cells white, phantoms red, missed ones blue, the robot green.

    :returns: (side, side, 3) RGB.
    """
    picture = np.full((*found.shape, 3), _NOTHING, np.uint8)
    near_true, near_found = _grown(true, tolerance), _grown(found, tolerance)
    picture[true & ~near_found] = _MISSED
    picture[found & near_true] = _RIGHT
    picture[found & ~near_true] = _PHANTOM
    middle = len(found) // 2
    picture[middle - 2 : middle + 2, middle - 2 : middle + 2] = _ROBOT
    return picture


def _grown(grid: Bool, cells: int) -> Bool:
    window = np.ones((2 * cells + 1,) * 2, np.uint8)
    return np.asarray(cv2.dilate(grid.astype(np.uint8), window), np.bool_)
