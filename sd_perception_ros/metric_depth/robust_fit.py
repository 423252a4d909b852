"""Robust line fits: RANSAC for the whole image, and weighted regression on a grid of cells."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from sd_perception_ros.types import Float

Double = NDArray[np.float64]
Index = NDArray[np.intp]

# RANSAC: lines tried, points that each line is scored with, and least-squares refinements.
_HYPOTHESES, _SCORING_POINTS = 128, 512
_REFINEMENTS = 3
# Local fits: mean number of points in a cell, standard deviation of the Gaussian that sums over
# neighbouring cells (in cells), and weight of the global line (in points).
_POINTS_PER_CELL, _BLUR_CELLS, _PRIOR = 2.0, 0.7, 0.3
# Relative errors at which a point has half its weight, one per iteration.
_HALF_WEIGHT_ERRORS = (0.3, 0.15, 0.1)
# Local scales stay between these multiples of the global one: never negative.
_MIN_LOCAL_SCALE, _MAX_LOCAL_SCALE = 0.0, 3.0


def robust_line(x: Double, y: Double, tolerance: float) -> tuple[float, float] | None:
    """
    Fit y = scale * x + shift with a positive scale: RANSAC, then least squares of the inliers.

    Errors are relative to y. The result is deterministic.

    :param x: (N,).
    :param y: (N,) positive.
    :param tolerance: relative error below which a point is an inlier.
    :returns: scale and shift; None if there is no such line.
    """
    best = _consensus(x, y, tolerance)
    if best is None:
        return None
    for _ in range(_REFINEMENTS):
        is_inlier = np.abs(best[0] * x + best[1] - y) < tolerance * y
        line = _least_squares(x[is_inlier], y[is_inlier])
        if line is None or line[0] <= 0:
            break
        best = line
    return best


def local_lines(
    x: Double, y: Double, positions: Double, line: tuple[float, float], aspect: float
) -> tuple[Float, Float]:
    """
    Fit a line in each cell of a coarse grid over the image.

    Each cell uses the points in and around it: locally weighted regression (Xu et al.,
    arXiv 2202.01470) with Cauchy weights against outliers. Cells with few points stay near the
    global line.

    :param x: (N,).
    :param y: (N,) positive; errors are relative to it.
    :param positions: (N, 2) row and column, as fractions of the image's height and width.
    :param line: global scale and shift.
    :param aspect: width / height of the image.
    :returns: scale and shift, (h, w) float32 each.
    """
    rows = max(round(math.sqrt(len(x) / _POINTS_PER_CELL / aspect)), 1)
    columns = max(round(rows * aspect), 1)
    row, column = cell_indices(positions, rows, columns)
    center, variance = float(x.mean()), float(x.var())
    offset = x - center
    scale, shift = (np.full((rows, columns), value, np.float32) for value in line)
    residual = y - (line[0] * x + line[1])
    base_weight = 1 / y**2
    prior = _PRIOR * float(base_weight.mean())
    for half_weight_error in _HALF_WEIGHT_ERRORS:
        prediction = sample_bilinear(scale, positions) * x + sample_bilinear(shift, positions)
        error = (prediction - y) / y
        weight = base_weight / (1 + (error / half_weight_error) ** 2)
        # Weighted sums of the normal equations, for each cell.
        n, sx, sy, sxx, sxy = (
            _sum_around_cells(weight * value, row * columns + column, rows, columns)
            for value in (1.0, offset, residual, offset**2, offset * residual)
        )
        n += prior
        sxx += prior * variance
        determinant = n * sxx - sx**2
        slope = (n * sxy - sx * sy) / determinant
        slope = np.clip(slope, (_MIN_LOCAL_SCALE - 1) * line[0], (_MAX_LOCAL_SCALE - 1) * line[0])
        level = (sy - slope * sx) / n
        scale = (line[0] + slope).astype(np.float32)
        shift = (line[1] + level - slope * center).astype(np.float32)
    return scale, shift


def cell_indices(positions: Double, rows: int, columns: int) -> tuple[Index, Index]:
    """
    Return the row and the column of the grid cell that contains each position.

    :param positions: (N, 2) row and column, as fractions of the image's height and width.
    """
    row = (positions[:, 0] * rows).astype(np.intp).clip(0, rows - 1)
    column = (positions[:, 1] * columns).astype(np.intp).clip(0, columns - 1)
    return row, column


def sample_bilinear(grid: Float, positions: Double) -> Double:
    """
    Interpolate an (h, w) grid between its cell centres, as `cv2.resize` does.

    :param positions: (N, 2) row and column, as fractions of the image's height and width.
    :returns: (N,).
    """
    height, width = grid.shape
    if height == width == 1:
        return np.full(len(positions), grid[0, 0], np.float64)
    v = (positions[:, 0] * height - 0.5).astype(np.float32)
    u = (positions[:, 1] * width - 0.5).astype(np.float32)
    # OpenCV's limit is 32767 rows; there are at most 4000 references.
    samples = cv2.remap(grid, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(samples[:, 0], np.float64)


def _sum_around_cells(values: Double, cell: Index, rows: int, columns: int) -> Double:
    """Sum (N,) values in and around each cell with Gaussian weights, (rows, columns)."""
    sums = np.bincount(cell, values, rows * columns).reshape(rows, columns)
    blurred = cv2.GaussianBlur(sums, (0, 0), _BLUR_CELLS, borderType=cv2.BORDER_CONSTANT)
    return np.asarray(blurred, np.float64)


def _consensus(x: Double, y: Double, tolerance: float) -> tuple[float, float] | None:
    """Return the line through two points with the smallest truncated error (MSAC)."""
    if len(x) < 2:
        return None
    rng = np.random.default_rng(0)
    # Pairs that are half of all ranks apart: two points with nearly equal x define no slope.
    order = np.argsort(x, kind='stable')
    low = rng.integers(0, len(x) - len(x) // 2, _HYPOTHESES)
    a, b = order[low], order[low + len(x) // 2]
    step = x[b] - x[a]
    apart = step > 1e-6
    scale = (y[b] - y[a])[apart] / step[apart]
    shift = y[a][apart] - scale * x[a][apart]
    scale, shift = scale[scale > 0], shift[scale > 0]
    if len(scale) == 0:
        return None
    scoring = rng.permutation(len(x))[:_SCORING_POINTS]
    error = np.abs(scale[:, None] * x[scoring] + shift[:, None] - y[scoring]) / y[scoring]
    best = int(np.minimum(error, tolerance).mean(1).argmin())
    return float(scale[best]), float(shift[best])


def _least_squares(x: Double, y: Double) -> tuple[float, float] | None:
    """Return the line of least squared relative errors; None if the points define no slope."""
    weight = 1 / y**2
    total = weight.sum()
    if len(x) < 2:
        return None
    mean_x, mean_y = (weight * x).sum() / total, (weight * y).sum() / total
    spread = (weight * (x - mean_x) ** 2).sum()
    if not spread > 1e-12 * total:
        return None
    scale = (weight * (x - mean_x) * (y - mean_y)).sum() / spread
    return float(scale), float(mean_y - scale * mean_x)
