"""Shared by foreground and matting: alpha 0..1 of each pixel, predicted as -1..1."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sd_perception_ros.images import to_numpy
from sd_perception_ros.tasks.losses import gradient_loss, masked_mean
from sd_perception_ros.tasks.task import Task
from sd_perception_ros.types import Grid, Matte, Sample


@dataclass(frozen=True)
class Coverage(Task):
    """Alpha, the covered fraction of each pixel; subclasses define what covers it, and metrics."""

    @property
    def channels(self) -> int:
        """One."""
        return 1

    def target(self, sample: Sample) -> tuple[Tensor, Tensor]:
        """Map 0..1 to -1..1."""
        alpha = sample[self.truth]
        return alpha.nan_to_num(0.0) * 2 - 1, ~alpha.isnan()

    def loss(self, raw: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """Absolute error, squared error, and error of the gradients, for the edges."""
        error = raw - target
        return masked_mean(error.abs() + error.square(), valid) + gradient_loss(raw, target, valid)

    def decode(self, raw: Tensor, grid: Grid | None = None) -> Matte:
        """Map -1..1 to 0..1."""
        return Matte(to_numpy((raw[0] * 0.5 + 0.5).clamp(0, 1)))

    def colorize(self, prediction: Matte) -> NDArray[np.uint8]:
        """White where covered, black elsewhere."""
        level = cv2.convertScaleAbs(prediction.alpha, alpha=255)
        return np.asarray(cv2.merge([level] * 3), np.uint8)
