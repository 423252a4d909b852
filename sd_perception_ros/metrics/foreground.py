"""Metrics of salient and dichotomous segmentation."""

from __future__ import annotations

from collections.abc import Sequence
import math
from typing import Any
import warnings

import cv2
import numpy as np
from numpy.typing import NDArray

from sd_perception_ros.types import Float

FIGURES = ('mae', 'max_f', 'weighted_f', 's', 'mean_e', 'hce', 'boundary_iou')
LEVELS = 256
COLUMNS = 5 + 2 * LEVELS
BORDER = 0.02  # width of the band of `boundary_iou`, relative to the diagonal of the image


def measure_foreground(alpha: Float, truth: Float) -> Float:
    """
    Return the metrics of pysodmetrics for one image, and boundary IoU.

    As usual in the field, the prediction is quantised to 8 bits and stretched to 0..1, and the
    truth is thresholded at 0.5. Unknown pixels are background in both.

    :param alpha: (H, W) 0..1.
    :param truth: (H, W) 0..1, NaN where unknown.
    :returns: (1, 517) float32: MAE, weighted F, S, correction effort, boundary IoU, and F and E at
        256 thresholds; (0, 517) without known pixels.
    :raises ImportError: pysodmetrics is not installed.
    """
    valid = ~np.isnan(truth)
    if not valid.any():
        return np.empty((0, COLUMNS), np.float32)
    levels, mask = (
        np.round(np.where(valid, matte, 0) * (LEVELS - 1)).astype(np.uint8)
        for matte in (alpha, truth)
    )
    metrics = _pysodmetrics(levels, mask)
    row = [
        metrics['MAE']['mae'],
        metrics['WeightedFmeasure']['wfm'],
        metrics['Smeasure']['sm'],
        metrics['HumanCorrectionEffortMeasure']['hce'],
        boundary_iou(levels > 127, mask > 127),
        *metrics['Fmeasure']['fm']['curve'],
        *metrics['Emeasure']['em']['curve'],
    ]
    return np.array([row], np.float32)


def foreground_summary(measured: Sequence[Float]) -> dict[str, float]:
    """
    Return means over images; NaN without images.

    `max_f` is the mean F-measure (beta squared 0.3) at the threshold that is best for all images,
    `mean_e` the mean over thresholds of the enhanced alignment, `hce` the human correction effort
    in clicks for an image (Qin et al., arXiv 2203.03041).
    """
    rows = np.concatenate(measured)
    if not len(rows):
        return dict.fromkeys(FIGURES, math.nan)
    means = rows.mean(0, dtype=np.float64)
    f, e = np.split(means[5:], 2)
    mae, weighted_f, _, hce, boundary = means[:5].tolist()
    # pysodmetrics returns NaN for S where all of the truth lies in the last row or column.
    s_values = rows[~np.isnan(rows[:, 2]), 2]
    s = float(s_values.mean(dtype=np.float64)) if len(s_values) else math.nan
    values = (mae, float(f.max()), weighted_f, s, float(e.mean()), hce, boundary)
    return dict(zip(FIGURES, values, strict=True))


def boundary_iou(predicted: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """
    Return the IoU of the inner borders of two masks (Cheng et al., arXiv 2103.16562).

    The border is 2 % of the diagonal of the image wide; the edge of the image is a border, too.

    :returns: 0..1; 1 where both are empty.
    """
    border, true_border = _border(predicted), _border(truth)
    union = np.count_nonzero(border | true_border)
    return np.count_nonzero(border & true_border) / union if union else 1.0


def _border(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    width_px = max(1, round(BORDER * math.hypot(*mask.shape)))
    padded = np.pad(mask.astype(np.uint8), 1)
    inner = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=width_px)
    return np.asarray(mask & (inner[1:-1, 1:-1] == 0))


def _pysodmetrics(levels: NDArray[np.uint8], mask: NDArray[np.uint8]) -> dict[str, Any]:
    """Return the results of pysodmetrics for one image, by name of the metric."""
    import py_sod_metrics  # slow to import, and not needed for inference

    names = (
        'MAE',
        'WeightedFmeasure',
        'Smeasure',
        'HumanCorrectionEffortMeasure',
        'Fmeasure',
        'Emeasure',
    )
    results = {}
    with warnings.catch_warnings():
        # Fmeasure is deprecated; the new class computes the same, more slowly.
        warnings.simplefilter('ignore')
        for name in names:
            measure = getattr(py_sod_metrics, name)()
            measure.step(levels, mask)
            results[name] = measure.get_results()
    return results
