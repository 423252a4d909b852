"""Matting: how much of each pixel belongs to a person, 0..1, exact at the edges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from sd_perception_ros.tasks.coverage import Coverage
from sd_perception_ros.types import Matte, Sample


@dataclass(frozen=True)
class Matting(Coverage):
    """Alpha of the people in a picture."""

    name: ClassVar[str] = 'matting'
    truth: ClassVar[str] = 'matte'

    def measure(self, prediction: Matte, sample: Sample) -> NDArray[np.float32]:
        """Return one row: SAD in thousands of pixels, MSE, MAD, and the sums behind an IoU."""
        share = sample[self.truth][0, 0].numpy()
        valid = ~np.isnan(share)
        if not valid.any():
            return np.empty((0, 5), np.float32)
        alpha, truth = prediction.alpha[valid], share[valid]
        error = np.abs(alpha - truth)
        both, either = np.minimum(alpha, truth).sum(), np.maximum(alpha, truth).sum()
        row = [error.sum() / 1000, np.square(error).mean(), error.mean(), both, either]
        return np.array([row], np.float32)

    def summarize(self, measured: Sequence[NDArray[np.float32]]) -> dict[str, float]:
        """Return means over images, and the soft IoU of all people of all images."""
        rows = np.concatenate(measured).astype(np.float64)
        sad, mse, mad = rows[:, :3].mean(0).tolist()
        both, either = rows[:, 3:].sum(0).tolist()
        return {'mad': mad, 'mse': mse, 'sad': sad, 'soft_iou': both / either if either else 1.0}
