"""Relative depth: 0 near .. 1 far, up to an unknown scale and shift."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sd_perception_ros.config import check, option
from sd_perception_ros.metrics.depth import mean_depth_errors, measure_affine
from sd_perception_ros.tasks.affine import affine_loss, normalize_quantiles, paint, unit_range
from sd_perception_ros.tasks.losses import relative_loss
from sd_perception_ros.tasks.task import Task
from sd_perception_ros.types import DepthMap, Grid, Sample


@dataclass(frozen=True)
class Depth(Task):
    """Affine-invariant depth along the optical axis."""

    name: ClassVar[str] = 'depth'
    truth: ClassVar[str] = 'depth_m'
    headline: ClassVar[str] = 'abs_rel'

    relative: float = option(0.0, 'Weight of the relative error in the loss', low=0, high=10)

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        check(self)

    @property
    def channels(self) -> int:
        """One."""
        return 1

    def target(self, sample: Sample) -> tuple[Tensor, Tensor]:
        """Map each image's 2 % and 98 % depth quantiles to -1 and 1; the sky is far, 1."""
        depth_m = sample['depth_m']
        return normalize_quantiles(depth_m), ~depth_m.isnan()

    def loss(self, raw: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """
        Return the losses of GenPercept, and `relative` times the relative error.

        Outdoors, the losses of GenPercept hardly depend on near objects: a metre is 1/50 of the
        range.
        """
        loss = affine_loss(raw, target, valid)
        if self.relative:
            loss = loss + self.relative * relative_loss(raw, target, valid)
        return loss

    def decode(self, raw: Tensor, grid: Grid | None = None) -> DepthMap:
        """Map -1..1 to 0..1."""
        return DepthMap(unit_range(raw))

    def measure(self, prediction: DepthMap, sample: Sample) -> NDArray[np.float32]:
        """Return a row of errors after the image's least-squares fit in depth."""
        return measure_affine(prediction.values, sample)

    def summarize(self, measured: Sequence[NDArray[np.float32]]) -> dict[str, float]:
        """Return the mean over images."""
        return mean_depth_errors(measured)

    def colorize(self, prediction: DepthMap) -> NDArray[np.uint8]:
        """Near is warm, far is cold."""
        return paint(1 - prediction.values)
