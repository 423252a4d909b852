"""Losses over valid pixels. Tensors are (B, C, H, W) float32; masks are (B, 1, H, W) bool."""

from __future__ import annotations

import torch
from torch import Tensor


def masked_mean(values: Tensor, valid: Tensor) -> Tensor:
    """
    Mean over images of each image's mean over valid pixels; zero where an image has none.

    A mean over images, not over all pixels, so that gradient accumulation and several processes
    give the same result.
    """
    valid = valid.expand_as(values)
    sums = torch.where(valid, values, 0).sum((1, 2, 3))
    return (sums / valid.sum((1, 2, 3)).clamp(min=1)).mean()


def fit_scale_and_shift(raw: Tensor, target: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """
    Return the least-squares scale and shift from raw to target of each image, (B, 1, 1, 1).

    A flat output (no variance to scale) gets scale 0 and the target's mean.
    """
    weight = valid.to(raw.dtype)
    count = weight.sum((1, 2, 3), keepdim=True).clamp(min=1)
    clean = torch.where(valid, target, 0)
    mean_raw = (raw * weight).sum((1, 2, 3), keepdim=True) / count
    mean_target = (clean * weight).sum((1, 2, 3), keepdim=True) / count
    centered = (raw - mean_raw) * weight
    variance = centered.square().sum((1, 2, 3), keepdim=True)
    covariance = (centered * (clean - mean_target)).sum((1, 2, 3), keepdim=True)
    scale = torch.where(variance > 1e-6, covariance / variance.clamp(min=1e-6), 0)
    return scale, mean_target - scale * mean_raw


def scale_shift_invariant_loss(raw: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Mean absolute error after the least-squares fit of each image (MiDaS, arXiv 1907.01341)."""
    scale, shift = fit_scale_and_shift(raw, target, valid)
    return masked_mean((scale * raw + shift - target).abs(), valid)


def relative_loss(raw: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """
    Mean of error / depth after the least-squares fit of each image, similar to AbsRel.

    An affine-invariant target of -1..1 does not contain absolute depth: -1 is taken as 0.15 of the
    range, as is typical for rooms.
    """
    scale, shift = fit_scale_and_shift(raw, target, valid)
    return masked_mean((scale * raw + shift - target).abs() / (target + 1 + 0.3), valid)


def gradient_loss(raw: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Mean absolute difference of the slopes to the right and downwards, between valid pixels."""
    error = torch.where(valid, raw - target, 0)
    right = (error[..., :, 1:] - error[..., :, :-1]).abs()
    down = (error[..., 1:, :] - error[..., :-1, :]).abs()
    return masked_mean(right, valid[..., :, 1:] & valid[..., :, :-1]) + masked_mean(
        down, valid[..., 1:, :] & valid[..., :-1, :]
    )


def angular_loss(raw: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """
    Mean angle between raw vectors (any length) and unit targets, radians.

    acos has an infinite slope at 0 and pi, so the cosine stays 1e-4 away from them.
    """
    # A sum of squares, not norm(): a norm over three planes is five times as slow on a CPU.
    raw = raw * raw.square().sum(1, keepdim=True).clamp(min=1e-12).rsqrt()
    cosine = (raw * target).sum(1, keepdim=True)
    return masked_mean(torch.acos(cosine.clamp(-1 + 1e-4, 1 - 1e-4)), valid)
