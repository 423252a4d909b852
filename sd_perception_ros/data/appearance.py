"""Faults of real cameras: vignette, low light, motion blur, low resolution, JPEG."""

from __future__ import annotations

from collections.abc import Sequence
import math

import numpy as np
import torch
from torch import Tensor
import torch.nn.functional as F

LONGEST_BLUR_PX = 9
# The example tables of the JPEG standard (ITU-T T.81, annex K): brightness, then colour.
_TABLES = (
    (
        (16, 11, 10, 16, 24, 40, 51, 61),
        (12, 12, 14, 19, 26, 58, 60, 55),
        (14, 13, 16, 24, 40, 57, 69, 56),
        (14, 17, 22, 29, 51, 87, 80, 62),
        (18, 22, 37, 56, 68, 109, 103, 77),
        (24, 35, 55, 64, 81, 104, 113, 92),
        (49, 64, 78, 87, 103, 121, 120, 101),
        (72, 92, 95, 98, 112, 100, 103, 99),
    ),
    (
        (17, 18, 24, 47, 99, 99, 99, 99),
        (18, 21, 26, 66, 99, 99, 99, 99),
        (24, 26, 56, 99, 99, 99, 99, 99),
        (47, 66, 99, 99, 99, 99, 99, 99),
        *((99,) * 8 for _ in range(4)),
    ),
)
_TO_YCBCR = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))


def camera_faults(images: Tensor, rngs: Sequence[np.random.Generator]) -> Tensor:
    """
    Add faults of cheap cameras; each one to a random part of the images.

    In the order of a camera: vignette, low light with noise, motion blur, low resolution (shrunk
    and enlarged), JPEG. The geometry does not change, so the ground truth stays valid.

    :param images: (B, 3, H, W) in -1..1, on any device.
    :param rngs: one for each image, so that results do not depend on the rest of the batch.
    """
    degraded = [_degraded(one[None], rng) for one, rng in zip(images, rngs, strict=True)]
    return torch.cat(degraded)


def _degraded(image: Tensor, rng: np.random.Generator) -> Tensor:
    light = (image + 1) / 2
    if rng.random() < 0.3:
        height, width = light.shape[-2:]
        light = light * vignette(height, width, float(rng.uniform(0.1, 0.6))).to(light)
    if rng.random() < 0.2:
        light = _dark(light, rng)
    if rng.random() < 0.2:
        blur = motion_kernel(
            float(rng.uniform(2, LONGEST_BLUR_PX)), float(rng.uniform(0, math.pi))
        )
        light = _filtered(light, blur.to(light))
    if rng.random() < 0.25:
        light = _coarse(light, float(rng.uniform(1.3, 3)))
    if rng.random() < 0.6:
        light = jpeg(light.clamp(0, 1), round(rng.uniform(30, 95)))
    return light.clamp(0, 1) * 2 - 1


def vignette(height: int, width: int, strength: float) -> Tensor:
    """Return (1, 1, H, W) gains: 1 in the middle, 1 - strength in the corners."""
    y = torch.linspace(-1, 1, height).view(1, 1, -1, 1)
    x = torch.linspace(-1, 1, width).view(1, 1, 1, -1)
    return 1 - strength * (x.square() + y.square()) / 2


def motion_kernel(length_px: float, angle_rad: float) -> Tensor:
    """Return (K, K) weights along a line through the middle; they sum to 1."""
    reach = LONGEST_BLUR_PX // 2
    kernel = torch.zeros(2 * reach + 1, 2 * reach + 1)
    for along in np.linspace(-length_px / 2, length_px / 2, 4 * LONGEST_BLUR_PX):
        x, y = round(along * math.cos(angle_rad)), round(along * math.sin(angle_rad))
        kernel[reach + max(-reach, min(reach, y)), reach + max(-reach, min(reach, x))] += 1
    return kernel / kernel.sum()


def jpeg(image: Tensor, quality: int) -> Tensor:
    """
    Compress and decompress, with colours at full resolution.

    :param image: (B, 3, H, W) in 0..1.
    :param quality: 1 to 100, as libjpeg takes it.
    """
    height, width = image.shape[-2:]
    scale = 50 / quality if quality < 50 else 2 - quality / 50
    tables = (torch.tensor(_TABLES, dtype=image.dtype) * scale).round().clamp(1, 255)
    tables = tables[[0, 1, 1]].to(image.device).view(3, 1, 1, 8, 8)
    to_ycbcr = torch.tensor(_TO_YCBCR, dtype=image.dtype, device=image.device)
    planes = torch.einsum('yc,bchw->byhw', to_ycbcr, image * 255)
    planes[:, 0] -= 128
    planes = F.pad(planes, (0, -width % 8, 0, -height % 8), mode='replicate')
    rows, columns = planes.shape[-2] // 8, planes.shape[-1] // 8
    blocks = planes.view(-1, 3, rows, 8, columns, 8).transpose(3, 4)
    transform = _cosines().to(image)
    levels = (transform @ blocks @ transform.T / tables).round()
    blocks = transform.T @ (levels * tables) @ transform
    planes = blocks.transpose(3, 4).reshape(planes.shape)[..., :height, :width].clone()
    planes[:, 0] += 128
    return (torch.einsum('cy,byhw->bchw', to_ycbcr.inverse(), planes) / 255).clamp(0, 1)


def _cosines() -> Tensor:
    """Return the (8, 8) orthonormal discrete cosine transform: a row for each frequency."""
    frequency, place = torch.arange(8.0)[:, None], torch.arange(8.0)[None]
    rows = torch.cos(math.pi / 8 * (place + 0.5) * frequency) / 2
    rows[0] /= math.sqrt(2)
    return rows


def _dark(light: Tensor, rng: np.random.Generator) -> Tensor:
    """Reduce the light; noise increases as the light decreases."""
    gain = float(rng.uniform(0.15, 0.6))
    generator = torch.Generator(light.device).manual_seed(int(rng.integers(2**62)))
    noise = torch.empty_like(light).normal_(generator=generator)
    return (light * gain + noise * float(rng.uniform(0.005, 0.04))).clamp(0, 1)


def _coarse(light: Tensor, factor: float) -> Tensor:
    height, width = light.shape[-2:]
    small = (max(round(height / factor), 1), max(round(width / factor), 1))
    low = F.interpolate(light, small, mode='bilinear', antialias=True, align_corners=False)
    return F.interpolate(low, (height, width), mode='bilinear', align_corners=False)


def _filtered(light: Tensor, kernel: Tensor) -> Tensor:
    reach = kernel.shape[0] // 2
    padded = F.pad(light, (reach,) * 4, mode='replicate')
    return F.conv2d(padded, kernel.expand(3, 1, -1, -1), groups=3)
