"""Matting: alpha of people, 0..1, exact at edges and hair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from sd_perception_ros.metrics.matting import mean_alpha_errors, measure_alpha
from sd_perception_ros.tasks.coverage import Coverage
from sd_perception_ros.types import Matte, Sample


@dataclass(frozen=True)
class Matting(Coverage):
    """Alpha of the people in an image."""

    name: ClassVar[str] = 'matting'
    truth: ClassVar[str] = 'matte'
    headline: ClassVar[str] = 'mad'

    def measure(self, prediction: Matte, sample: Sample) -> NDArray[np.float32]:
        """Return one row of errors."""
        return measure_alpha(prediction.alpha, sample[self.truth][0, 0].numpy())

    def summarize(self, measured: Sequence[NDArray[np.float32]]) -> dict[str, float]:
        """Return means over images, and the soft IoU of all people of all images."""
        return mean_alpha_errors(measured)
