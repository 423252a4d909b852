"""Robust lines: one for all references, and one for each part of the picture."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from sd_perception_ros.types import Float

Double = NDArray[np.float64]
Index = NDArray[np.intp]

_HYPOTHESES, _VOTERS = 128, 512
_POLISHES = 3
# Local fits: references in a cell, how far they reach, and how many the global line counts for.
_PER_CELL, _BLUR_CELLS, _PRIOR = 2.0, 0.7, 0.3
# Errors, as shares of y, at which a reference counts half: from coarse to fine.
_HALF_WEIGHTS = (0.3, 0.15, 0.1)
# Local scales stay between these shares of the global one: near and far are never turned.
_LEAST_LOCAL, _MOST_LOCAL = 0.0, 3.0


def robust_line(x: Double, y: Double, tolerance: float) -> tuple[float, float] | None:
    """
    Find y = scale * x + shift that most points agree with: RANSAC, then least squares.

    Errors are shares of y. The same points always give the same line.

    :param x: (N,).
    :param y: (N,) positive.
    :param tolerance: a point agrees whose error is smaller.
    :returns: a positive scale, and the shift; None where there is no such line.
    """
    best = _consensus(x, y, tolerance)
    if best is None:
        return None
    for _ in range(_POLISHES):
        agree = np.abs(best[0] * x + best[1] - y) < tolerance * y
        found = _least_squares(x[agree], y[agree])
        if found is None or found[0] <= 0:
            break
        best = found
    return best


def local_lines(
    x: Double, y: Double, places: Double, line: tuple[float, float], aspect: float
) -> tuple[Float, Float]:
    """
    Let scale and shift vary over the picture where points are dense enough to tell.

    In each cell of a coarse grid a line is fitted to the points in and around it: locally weighted
    regression (Xu et al., arXiv 2202.01470), with Cauchy weights against outliers, and pulled to
    the global line where points are few.

    :param x: (N,).
    :param y: (N,) positive; errors are shares of it.
    :param places: (N, 2) where they lie: shares of the picture's height and width.
    :param line: global scale and shift.
    :param aspect: width of the picture by its height.
    :returns: scale and shift, (h, w) float32 each.
    """
    rows = max(round(math.sqrt(len(x) / _PER_CELL / aspect)), 1)
    columns = max(round(rows * aspect), 1)
    row, column = cells(places, rows, columns)
    center, spread = float(x.mean()), float(x.var())
    offset = x - center
    scale, shift = (np.full((rows, columns), value, np.float32) for value in line)
    rest = y - (line[0] * x + line[1])
    share = 1 / y**2
    prior = _PRIOR * float(share.mean())
    for half in _HALF_WEIGHTS:
        error = (sampled(scale, places) * x + sampled(shift, places) - y) / y
        weight = share / (1 + (error / half) ** 2)
        n, sx, sy, sxx, sxy = (
            _gathered(weight * value, row * columns + column, rows, columns)
            for value in (1.0, offset, rest, offset**2, offset * rest)
        )
        n += prior
        sxx += prior * spread
        determinant = n * sxx - sx**2
        slope = (n * sxy - sx * sy) / determinant
        slope = np.clip(slope, (_LEAST_LOCAL - 1) * line[0], (_MOST_LOCAL - 1) * line[0])
        level = (sy - slope * sx) / n
        scale = (line[0] + slope).astype(np.float32)
        shift = (line[1] + level - slope * center).astype(np.float32)
    return scale, shift


def cells(places: Double, rows: int, columns: int) -> tuple[Index, Index]:
    """Return the row and the column of the cell of each of (N, 2) places, shares of a picture."""
    row = (places[:, 0] * rows).astype(np.intp).clip(0, rows - 1)
    column = (places[:, 1] * columns).astype(np.intp).clip(0, columns - 1)
    return row, column


def sampled(field: Float, places: Double) -> Double:
    """Read an (h, w) field between its cells' centres, as `cv2.resize` does, at (N, 2) places."""
    height, width = field.shape
    if height == width == 1:
        return np.full(len(places), field[0, 0], np.float64)
    v = (places[:, 0] * height - 0.5).astype(np.float32)
    u = (places[:, 1] * width - 0.5).astype(np.float32)
    # One column of at most 32767 rows, OpenCV's limit: references are fewer.
    found = cv2.remap(field, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(found[:, 0], np.float64)


def _gathered(values: Double, cell: Index, rows: int, columns: int) -> Double:
    """Sum (N,) values in each cell and around it, (rows, columns)."""
    sums = np.bincount(cell, values, rows * columns).reshape(rows, columns)
    blurred = cv2.GaussianBlur(sums, (0, 0), _BLUR_CELLS, borderType=cv2.BORDER_CONSTANT)
    return np.asarray(blurred, np.float64)


def _consensus(x: Double, y: Double, tolerance: float) -> tuple[float, float] | None:
    """Return the line through two points that most others agree with (MSAC)."""
    if len(x) < 2:
        return None
    rng = np.random.default_rng(0)
    # Pairs half the ranks apart: two points of nearly one x tell no scale.
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
    voters = rng.permutation(len(x))[:_VOTERS]
    error = np.abs(scale[:, None] * x[voters] + shift[:, None] - y[voters]) / y[voters]
    best = int(np.minimum(error, tolerance).mean(1).argmin())
    return float(scale[best]), float(shift[best])


def _least_squares(x: Double, y: Double) -> tuple[float, float] | None:
    """Return the line of the smallest squared errors, as shares of y; None for too few points."""
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
