"""Foreground: objects and people, separated from floors, walls and the sky."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from sd_perception_ros.metrics.foreground import foreground_summary, measure_foreground
from sd_perception_ros.tasks.coverage import Coverage
from sd_perception_ros.types import Matte, Sample


@dataclass(frozen=True)
class Foreground(Coverage):
    """Dichotomous segmentation (the official `dis`)."""

    name: ClassVar[str] = 'foreground'
    truth: ClassVar[str] = 'foreground'
    headline: ClassVar[str] = 'mae'

    def measure(self, prediction: Matte, sample: Sample) -> NDArray[np.float32]:
        """Return one row of the metrics of dichotomous segmentation."""
        return measure_foreground(prediction.alpha, sample[self.truth][0, 0].numpy())

    def summarize(self, measured: Sequence[NDArray[np.float32]]) -> dict[str, float]:
        """Return means over images."""
        return foreground_summary(measured)
