"""Filters for point clouds: depth edges (flying pixels) and voxel grid."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from sd_perception_ros.types import Float

Bool = NDArray[np.bool_]
Index = NDArray[np.intp]

_WINDOW = np.ones((3, 3), np.uint8)
# Bits of a voxel index along each axis: -2 ** 20 .. 2 ** 20, 50 km at 5 cm.
_BITS = 21


def without_edges(depth_m: Float, max_jump: float) -> Float:
    """
    Remove pixels at depth edges, where a network interpolates between foreground and background.

    :param depth_m: (H, W) float32 metres, NaN or infinite where there is no point.
    :param max_jump: maximum difference within a pixel's 3 x 3 neighbourhood, as a fraction of its
        depth; 0 keeps every pixel.
    :returns: a copy, NaN at the edges.
    """
    if not max_jump:
        return depth_m
    finite = np.isfinite(depth_m)
    farthest = cv2.dilate(np.where(finite, depth_m, np.float32(0)), _WINDOW)
    nearest = cv2.erode(np.where(finite, depth_m, np.float32(1e9)), _WINDOW)
    filtered = depth_m.copy()
    filtered[farthest - nearest > max_jump * depth_m] = np.nan
    return filtered


def voxel_means(points: Float, voxel_m: float, min_points: int = 1) -> tuple[Float, Index]:
    """
    Replace the points of each voxel by their mean (voxel grid filter).

    :param points: (N, 3) finite, float32.
    :param voxel_m: side of a voxel.
    :param min_points: voxels with fewer points are left out as noise.
    :returns: (M, 3) float32, and the index of the first of the N points in each voxel, (M,).
    """
    index = np.floor(points / np.float32(voxel_m)).astype(np.int64) + (1 << _BITS - 1)
    keys = (index[:, 0] << 2 * _BITS) | (index[:, 1] << _BITS) | index[:, 2]
    _, first, voxel, counts = np.unique(
        keys, return_index=True, return_inverse=True, return_counts=True
    )
    sums = [np.bincount(voxel, points[:, axis], len(first)) for axis in range(3)]
    means = (np.stack(sums, axis=1) / counts[:, None]).astype(np.float32)
    enough = counts >= min_points
    return means[enough], first[enough]
