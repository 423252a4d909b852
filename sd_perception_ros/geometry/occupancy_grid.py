"""Occupancy grids from point clouds, by the rules of Nav2's obstacle layer, and their scores."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from sd_perception_ros.geometry.pinhole import back_project, Transform
from sd_perception_ros.geometry.point_cloud import voxel_means, without_edges
from sd_perception_ros.types import Camera, Float, UInt8

Bool = NDArray[np.bool_]

# Colours of a comparison.
_EMPTY, _CORRECT, _PHANTOM, _MISSED = (28, 28, 32), (225, 225, 225), (235, 70, 50), (60, 130, 255)
_ROBOT = (60, 200, 90)
# Options of the point cloud in config/nav2/perception.yaml.
MAX_RELATIVE_JUMP, VOXEL_M, VOXEL_MIN_POINTS = 0.04, 0.05, 3


@dataclass(frozen=True)
class GridGeometry:
    """
    Square grid around the robot, x forward and y left.

    As in Nav2's obstacle layer, a point marks its cell if its height is within
    the limits and its distance from the sensor is below the range. NaN marks no cell.
    """

    resolution_m: float = 0.05
    range_m: float = 4.0
    min_height_m: float = 0.15
    max_height_m: float = 2.0

    @property
    def side(self) -> int:
        """Return the number of cells along x, and along y."""
        return 2 * round(self.range_m / self.resolution_m)


@dataclass(frozen=True)
class Scores:
    """
    Scores of a grid against the true one.

    :ivar precision: fraction of the marked cells with a true cell within the tolerance.
    :ivar recall: fraction of the true cells with a marked cell within the tolerance.
    :ivar phantoms: number of connected groups of marked cells without a true cell nearby.
    """

    precision: float
    recall: float
    phantoms: int

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total else 0.0


def grid_from_depth(
    depth_m: Float, camera: Camera, robot_from_optical: Transform, geometry: GridGeometry
) -> Bool:
    """
    Mark cells with the point cloud that the node would publish for Nav2.

    :param depth_m: (H, W), NaN or infinite where there is no surface.
    :param robot_from_optical: transform from the optical frame to the robot's frame.
    :returns: as `grid_from_points`.
    """
    points = back_project(without_edges(depth_m, MAX_RELATIVE_JUMP), camera).reshape(-1, 3)
    points, _ = voxel_means(points[np.isfinite(points[:, 2])], VOXEL_M, VOXEL_MIN_POINTS)
    points = np.asarray(robot_from_optical.apply(points), np.float32)
    return grid_from_points(points, robot_from_optical.translation, geometry)


def grid_from_points(points: Float, sensor_m: NDArray[np.float64], geometry: GridGeometry) -> Bool:
    """
    Mark the cells that contain points.

    :param points: (..., 3) metres in the robot's frame, NaN where unknown.
    :param sensor_m: (3,) position of the camera in that frame.
    :returns: (side, side) bool; row 0 is the farthest ahead, column 0 the farthest left.
    """
    points = points.reshape(-1, 3)
    points = points[np.isfinite(points).all(-1)]
    low, high = geometry.min_height_m, geometry.max_height_m
    marks = (points[:, 2] >= low) & (points[:, 2] <= high)
    marks &= ((points - sensor_m) ** 2).sum(-1) < geometry.range_m**2
    cells = np.floor(points[marks, :2] / geometry.resolution_m).astype(np.intp)
    row_column = geometry.side // 2 - 1 - cells
    row_column = row_column[((row_column >= 0) & (row_column < geometry.side)).all(-1)]
    grid = np.zeros((geometry.side, geometry.side), np.bool_)
    grid[row_column[:, 0], row_column[:, 1]] = True
    return grid


def compare(predicted: Bool, true: Bool, tolerance: int = 0) -> Scores:
    """
    Score predicted cells against the true ones.

    :param tolerance: largest distance of two matching cells, in rows and in columns.
    """
    near_true, near_predicted = _dilate(true, tolerance), _dilate(predicted, tolerance)
    groups, labels = cv2.connectedComponents(predicted.astype(np.uint8), connectivity=8)
    real = np.unique(labels[predicted & near_true])
    return Scores(
        float(near_true[predicted].mean()) if predicted.any() else 1.0,
        float(near_predicted[true].mean()) if true.any() else 1.0,
        groups - 1 - len(real),
    )


def draw_grids(predicted: Bool, true: Bool, tolerance: int = 0) -> UInt8:
    """
    Draw both grids from above: correct cells white, phantoms red, missed cells blue, robot green.

    :returns: (side, side, 3) RGB.
    """
    image = np.full((*predicted.shape, 3), _EMPTY, np.uint8)
    near_true, near_predicted = _dilate(true, tolerance), _dilate(predicted, tolerance)
    image[true & ~near_predicted] = _MISSED
    image[predicted & near_true] = _CORRECT
    image[predicted & ~near_true] = _PHANTOM
    middle = len(predicted) // 2
    image[middle - 2 : middle + 2, middle - 2 : middle + 2] = _ROBOT
    return image


def _dilate(grid: Bool, cells: int) -> Bool:
    window = np.ones((2 * cells + 1,) * 2, np.uint8)
    return np.asarray(cv2.dilate(grid.astype(np.uint8), window), np.bool_)
