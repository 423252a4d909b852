"""Augmentation that keeps the ground truth valid: mirror, crop, colours, blur and noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
import torch
from torch import Tensor
import torch.nn.functional as F

from sd_perception_ros.skeleton import MIRRORED, OUTSIDE
from sd_perception_ros.types import Sample


def mirror(sample: Sample) -> Sample:
    """Mirror left and right, including x of normals and the names of joints."""
    mirrored = {name: value.flip(-1) for name, value in sample.items() if name != 'joints'}
    if 'normals' in mirrored:
        signs = mirrored['normals'].new_tensor([-1.0, 1, 1]).view(1, 3, 1, 1)
        mirrored['normals'] = mirrored['normals'] * signs
    if 'joints' in sample:
        u, v, flag = sample['joints'][..., list(MIRRORED), :].unbind(-1)
        u = torch.where(flag != 0, sample['image'].shape[-1] - 1 - u, u)
        mirrored['joints'] = torch.stack([u, v, flag], -1)
    return mirrored


def crop(sample: Sample, top: int, left: int, height: int, width: int) -> Sample:
    """Crop every map to a window, in pixels; joints outside of it are flagged as `OUTSIDE`."""
    cut = {
        name: value[..., top : top + height, left : left + width]
        for name, value in sample.items()
        if name != 'joints'
    }
    if 'joints' in sample:
        moved = sample['joints'] - sample['joints'].new_tensor([left, top, 0.0])
        size = moved.new_tensor([width, height])
        # A pixel extends half a pixel around its centre.
        inside = ((moved[..., :2] - (size - 1) / 2).abs() <= size / 2).all(-1)
        moved[..., 2].masked_fill_(~inside, OUTSIDE)
        cut['joints'] = torch.where(sample['joints'][..., 2:] != 0, moved, 0.0)
    return cut


def subsample(sample: Sample, cell: int, row: int, column: int) -> Sample:
    """
    Keep the pixel at (row, column) of every cell x cell block of every map; drops joints.

    No averaging: a mean of two depths lies on no surface. With random rows and columns, the kept
    pixels lie at the centres of their blocks on average.
    """
    return {
        name: value[..., row::cell, column::cell]
        for name, value in sample.items()
        if name != 'joints'
    }


def color_jitter(images: Tensor, rngs: Sequence[np.random.Generator]) -> Tensor:
    """
    Change exposure, tint, saturation, contrast, blur and noise, as between cameras.

    A tenth of the images become grey.

    :param images: (B, 3, H, W) in -1..1, on any device.
    :param rngs: one for each image, which makes the result independent of the rest of the batch.
    """
    changes = [_Change.random(rng) for rng in rngs]

    def each(name: str) -> Tensor:
        values = np.array([getattr(change, name) for change in changes], np.float32)
        return torch.from_numpy(values).to(images.device).view(len(changes), -1, 1, 1)

    light = (images + 1) / 2
    light = light.clamp(1e-3, 1) ** each('gamma') * each('gain')
    gray = light.mean(1, keepdim=True)
    light = gray + (light - gray) * each('saturation')
    middle = light.mean((1, 2, 3), keepdim=True)
    light = middle + (light - middle) * each('contrast')
    blurred = [index for index, change in enumerate(changes) if change.blur_px]
    if blurred:
        light[blurred] = _blur(light[blurred], each('blur_px').flatten()[blurred])
    noise = torch.zeros_like(light)
    for row, change in zip(noise, changes, strict=True):
        if change.noise:
            # Drawn on the device of the image: copying 150,000 numbers for each image is slow.
            generator = torch.Generator(images.device).manual_seed(change.seed)
            row.normal_(generator=generator)
    return ((light + noise * each('noise')).clamp(0, 1) * 2 - 1).float()


@dataclass(frozen=True)
class _Change:
    """Parameters of the changes to one image."""

    gamma: float
    gain: NDArray[np.float64]  # of red, green and blue
    saturation: float
    contrast: float
    blur_px: float  # 0: none
    noise: float  # 0: none
    seed: int

    @classmethod
    def random(cls, rng: np.random.Generator) -> _Change:
        """Draw random parameters; the ranges are those of cheap cameras."""
        return cls(
            gamma=float(np.exp(rng.normal(0, 0.2))),
            gain=np.exp(rng.normal(0, 0.15) + rng.normal(0, 0.08, 3)),
            saturation=float(rng.uniform(0.3, 1.5)) if rng.random() < 0.9 else 0.0,
            contrast=float(rng.uniform(0.7, 1.3)),
            blur_px=float(rng.uniform(0.4, 1.2)) if rng.random() < 0.3 else 0.0,
            noise=float(rng.uniform(0.005, 0.04)) if rng.random() < 0.5 else 0.0,
            seed=int(rng.integers(2**62)),
        )


def _blur(images: Tensor, sigmas_px: Tensor) -> Tensor:
    """Blur each of (B, 3, H, W) images with its own Gaussian; standard deviations in pixels."""
    offsets = torch.arange(-3, 4, device=images.device, dtype=images.dtype)
    variances = sigmas_px.square()[:, None]
    weights = torch.exp(-offsets.square() / (2 * variances))
    weights = weights / weights.sum(1, keepdim=True)
    count = 3 * len(images)
    row = weights.repeat_interleave(3, 0).view(count, 1, 1, 7)
    planes = F.pad(images, (3, 3, 3, 3), mode='replicate').flatten(0, 1)[None]
    across = F.conv2d(planes, row, groups=count)
    return F.conv2d(across, row.transpose(2, 3), groups=count).view_as(images)
