"""Relative disparity (1 / depth): 0 far .. 1 near, up to an unknown scale and shift."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
import torch
from torch import Tensor

from sd_perception_ros.metrics.depth import mean_depth_errors, measure_affine
from sd_perception_ros.tasks.affine import affine_loss, normalize_quantiles, paint, unit_range
from sd_perception_ros.tasks.task import Task
from sd_perception_ros.types import DisparityMap, Grid, Sample


@dataclass(frozen=True)
class Disparity(Task):
    """Affine-invariant inverse depth, which resolves near objects better than depth."""

    name: ClassVar[str] = 'disparity'
    truth: ClassVar[str] = 'depth_m'
    headline: ClassVar[str] = 'abs_rel'

    @property
    def channels(self) -> int:
        """One."""
        return 1

    def target(self, sample: Sample) -> tuple[Tensor, Tensor]:
        """Map each image's 2 % and 98 % quantiles of 1 / depth to -1 and 1; the sky is -1."""
        depth_m = sample['depth_m']
        per_m = 1 / depth_m.clamp(min=1e-3)
        # The sky is excluded from the quantiles: outdoors it would be the lower one.
        target = normalize_quantiles(torch.where(depth_m.isinf(), -torch.inf, per_m))
        return target, ~depth_m.isnan()

    def loss(self, raw: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """Return the losses of GenPercept."""
        return affine_loss(raw, target, valid)

    def decode(self, raw: Tensor, grid: Grid | None = None) -> DisparityMap:
        """Map -1..1 to 0..1."""
        return DisparityMap(unit_range(raw))

    def measure(self, prediction: DisparityMap, sample: Sample) -> NDArray[np.float32]:
        """Return a row of errors after the image's least-squares fit in 1 / depth."""
        return measure_affine(prediction.values, sample, inverse=True)

    def summarize(self, measured: Sequence[NDArray[np.float32]]) -> dict[str, float]:
        """Return the mean over images."""
        return mean_depth_errors(measured)

    def colorize(self, prediction: DisparityMap) -> NDArray[np.uint8]:
        """Near is warm, far is cold."""
        return paint(prediction.values)
