"""Foreground: things and people, apart from the floors, walls and skies that they stand before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from sd_perception_ros.tasks.coverage import Coverage
from sd_perception_ros.types import Matte, Sample

LEVELS = 256
BETA_SQUARED = 0.3  # precision counts more than recall, as usual for dichotomous segmentation


@dataclass(frozen=True)
class Foreground(Coverage):
    """Dichotomous segmentation (the official `dis`)."""

    name: ClassVar[str] = 'foreground'
    truth: ClassVar[str] = 'foreground'

    def measure(self, prediction: Matte, sample: Sample) -> NDArray[np.float32]:
        """Return one row: mean absolute error, then precision and recall at 255 thresholds."""
        share = sample[self.truth][0, 0].numpy()
        valid = ~np.isnan(share)
        if not valid.any():
            return np.empty((0, 1 + 2 * (LEVELS - 1)), np.float32)
        alpha, truth = prediction.alpha[valid], share[valid] >= 0.5
        level = np.round(alpha * (LEVELS - 1)).astype(np.int64)
        # Pixels at or above each threshold 1..255, from the brightest down.
        hits, found = (
            np.cumsum(np.bincount(values, minlength=LEVELS)[::-1])[::-1][1:]
            for values in (level[truth], level)
        )
        precision = hits / np.maximum(found, 1)
        recall = hits / max(int(truth.sum()), 1)
        error = np.abs(alpha - share[valid]).mean()
        row: NDArray[np.float32] = np.concatenate([[error], precision, recall]).astype(np.float32)
        return row[None]

    def summarize(self, measured: Sequence[NDArray[np.float32]]) -> dict[str, float]:
        """Return the highest F-measure of one threshold for all images, and MAE."""
        mean = np.concatenate(measured).mean(0, dtype=np.float64)
        precision, recall = np.split(mean[1:], 2)
        measure = (1 + BETA_SQUARED) * precision * recall
        measure /= np.maximum(BETA_SQUARED * precision + recall, 1e-9)
        return {'max_f': float(measure.max()), 'mae': float(mean[0])}
