"""From depth in metres to points that an obstacle map can use: no flying pixels, fewer of them."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from sd_perception_ros.types import Float

Bool = NDArray[np.bool_]
Index = NDArray[np.intp]

_WINDOW = np.ones((3, 3), np.uint8)
# Voxels are counted from -(2 ** 20) to 2 ** 20 along each axis: 50 km at 5 cm.
_BITS = 21


def without_edges(depth_m: Float, max_jump: float) -> Float:
    """
    Make pixels unknown where depth jumps: a network smears edges into points in mid-air.

    :param depth_m: (H, W) float32 metres, NaN or infinite where there is no point.
    :param max_jump: largest difference among a pixel and its eight neighbours, as a share of its
        depth; 0 keeps every pixel.
    :returns: a copy, NaN at the edges.
    """
    if not max_jump:
        return depth_m
    finite = np.isfinite(depth_m)
    farthest = cv2.dilate(np.where(finite, depth_m, np.float32(0)), _WINDOW)
    nearest = cv2.erode(np.where(finite, depth_m, np.float32(1e9)), _WINDOW)
    made = depth_m.copy()
    made[farthest - nearest > max_jump * depth_m] = np.nan
    return made


def voxels(points: Float, side_m: float, least: int = 1) -> tuple[Float, Index]:
    """
    Put one point into each cube of space that holds points: their mean.

    :param points: (N, 3) finite, float32.
    :param side_m: of the cubes.
    :param least: cubes with fewer points are left out: they are noise.
    :returns: (M, 3) float32, and which of the N points came first in each cube.
    """
    steps = np.floor(points / np.float32(side_m)).astype(np.int64) + (1 << _BITS - 1)
    keys = (steps[:, 0] << 2 * _BITS) | (steps[:, 1] << _BITS) | steps[:, 2]
    _, first, cube, counts = np.unique(
        keys, return_index=True, return_inverse=True, return_counts=True
    )
    sums = [np.bincount(cube, points[:, axis], len(first)) for axis in range(3)]
    means = (np.stack(sums, axis=1) / counts[:, None]).astype(np.float32)
    kept = counts >= least
    return means[kept], first[kept]
