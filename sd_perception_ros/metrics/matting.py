"""Metrics of mattes: the four errors of alpha matting, over the whole image."""

from __future__ import annotations

from collections.abc import Sequence
import math

import cv2
import numpy as np
from numpy.typing import NDArray

from sd_perception_ros.types import Float

FIGURES = ('mad', 'mse', 'sad', 'grad', 'conn', 'soft_iou')
GRADIENT_SIGMA_PX = 1.4
STEP = 0.1  # between the thresholds of connectivity
MIN_GAP = 0.15  # smaller differences between alpha and the connected threshold are ignored


def measure_alpha(alpha: Float, truth: Float) -> Float:
    """
    Return the errors of one matte, and the sums behind a soft IoU.

    Sums over pixels (SAD, Grad, Conn) are in thousands, as usual. Unknown pixels are ignored: they
    are set to 0 in both mattes.

    :param alpha: (H, W) 0..1.
    :param truth: (H, W) 0..1, NaN where unknown.
    :returns: (1, 7) float32: MAD, MSE, SAD, Grad, Conn, intersection, union; (0, 7) without
        known pixels.
    """
    valid = ~np.isnan(truth)
    if not valid.any():
        return np.empty((0, 7), np.float32)
    alpha, truth = np.where(valid, alpha, 0), np.where(valid, truth, 0)
    error = np.abs(alpha - truth)[valid].astype(np.float64)
    row = [
        error.mean(),
        np.square(error).mean(),
        error.sum() / 1000,
        gradient_error(alpha, truth) / 1000,
        connectivity_error(alpha, truth) / 1000,
        np.minimum(alpha, truth).sum(),
        np.maximum(alpha, truth).sum(),
    ]
    return np.array([row], np.float32)


def mean_alpha_errors(measured: Sequence[Float]) -> dict[str, float]:
    """Return means over images, and the soft IoU of all pixels; NaN without images."""
    rows = np.concatenate(measured).astype(np.float64)
    if not len(rows):
        return dict.fromkeys(FIGURES, math.nan)
    intersection, union = rows[:, 5:].sum(0).tolist()
    means = rows[:, :5].mean(0).tolist()
    return dict(zip(FIGURES, [*means, intersection / union if union else 1.0], strict=True))


def gradient_error(alpha: Float, truth: Float) -> float:
    """
    Return the sum of squared differences of the lengths of gradients (Rhemann et al., CVPR 2009).

    Gradients are taken with derivatives of a Gaussian of 1.4 px, scaled to a Euclidean norm of 1,
    as in the common evaluation code. The script of P3M-10k does not scale them: its values are
    1.036 times larger.
    """
    difference = _slopes(alpha) - _slopes(truth)
    return float(np.square(difference, dtype=np.float64).sum())


def connectivity_error(alpha: Float, truth: Float) -> float:
    """
    Return the sum of differences of the degrees of connectedness (Rhemann et al., CVPR 2009).

    The degree of a pixel is 1 minus the amount by which its alpha exceeds the highest threshold at
    which it is connected to the largest region that is above the threshold in both mattes.
    """
    # For each pixel, the highest threshold at which it is connected.
    level = np.full(alpha.shape, np.nan, np.float32)
    for step in range(1, round(1 / STEP) + 1):
        inside = _largest(((alpha >= step * STEP) & (truth >= step * STEP)).astype(np.uint8))
        level[np.isnan(level) & ~inside] = (step - 1) * STEP
    level[np.isnan(level)] = 1
    degrees = []
    for matte in (alpha, truth):
        gap = matte - level
        degrees.append(1 - np.where(gap >= MIN_GAP, gap, 0))
    return float(np.abs(degrees[0] - degrees[1]).sum(dtype=np.float64))


def _slopes(matte: Float) -> Float:
    """Return the length of the gradient at each pixel, (H, W)."""
    sigma = GRADIENT_SIGMA_PX
    # The reference cuts the kernel where the Gaussian falls below 0.01.
    half = math.ceil(sigma * math.sqrt(-2 * math.log(math.sqrt(2 * math.pi) * sigma * 0.01)))
    x = np.arange(-half, half + 1)
    smooth = np.exp(-(x**2) / (2 * sigma**2))
    slope = x * smooth
    smooth, slope = (line / np.linalg.norm(line) for line in (smooth, slope))
    across, down = (
        cv2.sepFilter2D(
            matte.astype(np.float32), cv2.CV_32F, *lines, None, (-1, -1), 0, cv2.BORDER_REPLICATE
        )
        for lines in ((slope, smooth), (smooth, slope))
    )
    return np.hypot(across, down)


def _largest(mask: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return the largest 4-connected region of a mask, as a mask; empty for an empty mask."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=4)
    number = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax()) if count > 1 else -1
    return np.asarray(labels == number)
