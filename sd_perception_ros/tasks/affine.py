"""Shared by depth and disparity: quantile normalisation, loss and colours."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
import torch
from torch import Tensor

from sd_perception_ros.images import to_numpy
from sd_perception_ros.tasks.losses import gradient_loss, masked_mean, scale_shift_invariant_loss

# (256, 1, 3) RGB of level 0, cold, to level 255, warm.
TURBO = np.ascontiguousarray(
    cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_TURBO)[..., ::-1]
)


def normalize_quantiles(values: Tensor) -> Tensor:
    """
    Map each image's 2 % and 98 % quantiles to -1 and 1, as GenPercept does, and clip.

    :param values: (B, 1, H, W); infinite values do not move the quantiles, NaN becomes 0.
    """
    low, high = _quantiles(values, 0.02, 0.98)
    return ((values - low) / (high - low).clamp(min=1e-3) * 2 - 1).clamp(-1, 1).nan_to_num(0.0)


def affine_loss(raw: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Squared error + 0.5 scale-shift-invariant + 2 gradient, the weights of GenPercept."""
    return (
        masked_mean((raw - target).square(), valid)
        + 0.5 * scale_shift_invariant_loss(raw, target, valid)
        + 2 * gradient_loss(raw, target, valid)
    )


def unit_range(raw: Tensor) -> NDArray[np.float32]:
    """Map (1, H, W) in -1..1 to (H, W) in 0..1."""
    return to_numpy((raw[0] * 0.5 + 0.5).clamp(0, 1))


def paint(nearness: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Colour (H, W) values: 1 near and warm, 0 far and cold."""
    levels = cv2.convertScaleAbs(nearness, alpha=255)
    return np.asarray(cv2.LUT(cv2.merge([levels] * 3), TURBO), np.uint8)


def _quantiles(values: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    """Return two quantiles of each image's finite values, (B, 1, 1, 1); 0 and 1 without any."""
    pixels = values[..., ::2, ::2].flatten(1)  # a quarter of the pixels is enough
    finite = torch.where(pixels.isfinite(), pixels, torch.nan)
    bounds = finite.nanquantile(finite.new_tensor([low, high]), 1)
    fallback = bounds.new_tensor([[0.0], [1.0]])
    bounds = torch.where(bounds.isnan(), fallback, bounds).view(2, len(values), 1, 1, 1)
    return bounds[0], bounds[1]
