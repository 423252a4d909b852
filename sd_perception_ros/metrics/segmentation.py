"""Metrics of semantic segmentation, from the confusion matrix of a whole data set."""

from __future__ import annotations

from collections.abc import Sequence
import math

import numpy as np
from numpy.typing import NDArray

from sd_perception_ros.types import Float


def confusion(labels: NDArray[np.int64], predicted: NDArray[np.integer], classes: int) -> Float:
    """
    Count the pixels of one image by true and predicted class.

    :param labels: (H, W) true classes; others than 0 .. classes - 1 are unknown.
    :param predicted: (H, W) predicted classes, below `classes`.
    :returns: (classes, classes) float32: row truth, column prediction.
    """
    valid = (labels >= 0) & (labels < classes)
    pairs = labels[valid] * classes + predicted[valid]
    counts = np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)
    return counts.astype(np.float32)


def confusion_summary(measured: Sequence[Float], names: Sequence[str]) -> dict[str, float]:
    """
    Return mean intersection over union, pixel accuracy, mean class accuracy, and each IoU.

    The counts of all images are added first. Means and IoU are of the classes that occur in the
    ground truth; NaN without any.

    :param measured: matrices of `confusion`.
    """
    counts = np.sum(np.stack(measured), 0, dtype=np.float64)
    right, true = np.diag(counts), counts.sum(1)
    present = true > 0
    if not present.any():
        return dict.fromkeys(('mean_iou', 'accuracy', 'class_accuracy'), math.nan)
    iou = right / np.maximum(counts.sum(0) + true - right, 1)
    return {
        'mean_iou': float(iou[present].mean()),
        'accuracy': float(right.sum() / counts.sum()),
        'class_accuracy': float((right[present] / true[present]).mean()),
        **{f'iou_{names[i]}': float(iou[i]) for i in np.flatnonzero(present)},
    }
