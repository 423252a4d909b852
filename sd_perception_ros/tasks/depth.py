"""Relative depth: 0 near .. 1 far, right up to a scale and a shift."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray
import torch
from torch import Tensor

from sd_perception_ros.losses import gradient_loss, masked_mean, scale_shift_invariant_loss
from sd_perception_ros.metrics import aligned_depth_m, depth_errors
from sd_perception_ros.tasks.task import Task
from sd_perception_ros.types import DepthMap, Sample

# (256, 1, 3) RGB of level 0, near, to level 255, far.
FROM_LEVELS = np.ascontiguousarray(
    cv2.applyColorMap(np.arange(256, dtype=np.uint8)[::-1, None], cv2.COLORMAP_TURBO)[..., ::-1]
)


@dataclass(frozen=True)
class Depth(Task):
    """Affine-invariant depth along the optical axis."""

    name: ClassVar[str] = 'depth'
    channels: ClassVar[int] = 1
    truth: ClassVar[str] = 'depth_m'

    def target(self, sample: Sample) -> tuple[Tensor, Tensor]:
        """Map each image's 2 % and 98 % depth quantiles to -1 and 1; the sky is far, 1."""
        depth_m = sample['depth_m']
        low, high = _quantiles(depth_m, 0.02, 0.98)
        target = ((depth_m - low) / (high - low).clamp(min=1e-3) * 2 - 1).clamp(-1, 1)
        return target.nan_to_num(0.0), ~depth_m.isnan()

    def loss(self, raw: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """Squared error + 0.5 scale-shift-invariant + 2 gradient, the weights of GenPercept."""
        return (
            masked_mean((raw - target).square(), valid)
            + 0.5 * scale_shift_invariant_loss(raw, target, valid)
            + 2 * gradient_loss(raw, target, valid)
        )

    def decode(self, raw: Tensor) -> DepthMap:
        """Map -1..1 to 0..1."""
        return DepthMap(np.clip(raw[0].numpy() * 0.5 + 0.5, 0, 1))

    def measure(self, prediction: DepthMap, sample: Sample) -> NDArray[np.float32]:
        """Return one row of AbsRel, delta1 and RMSE after the least-squares fit of the image."""
        depth_m = sample['depth_m'][0, 0].numpy()
        valid = np.isfinite(depth_m) & (depth_m > 1e-3)
        if valid.sum() < 2:
            return np.empty((0, 3), np.float32)
        fitted = aligned_depth_m(prediction.values, depth_m, valid)
        return np.array([list(depth_errors(fitted, depth_m, valid).values())], np.float32)

    def summarize(self, measured: Sequence[NDArray[np.float32]]) -> dict[str, float]:
        """Return the mean over images."""
        rows = np.concatenate(measured)
        return dict(zip(('abs_rel', 'delta1', 'rmse_m'), rows.mean(0).tolist(), strict=True))

    def colorize(self, prediction: DepthMap) -> NDArray[np.uint8]:
        """Near is warm, far is cold."""
        levels = cv2.convertScaleAbs(prediction.values, alpha=255)
        return np.asarray(cv2.LUT(cv2.merge([levels] * 3), FROM_LEVELS), np.uint8)


def _quantiles(depth_m: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    """Return two quantiles of each image's finite depth, (B, 1, 1, 1); 0 and 1 without any."""
    bounds = torch.zeros(2, len(depth_m), 1, 1, 1, dtype=depth_m.dtype)
    bounds[1] = 1
    for index, image in enumerate(depth_m[..., ::2, ::2].cpu()):  # a quarter says the same
        finite = image[image.isfinite()]
        if finite.numel():
            bounds[:, index, 0, 0, 0] = finite.quantile(torch.tensor([low, high]))
    bounds = bounds.to(depth_m.device)
    return bounds[0], bounds[1]
