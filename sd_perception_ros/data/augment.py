"""Changes that leave the truth true: mirror, crop, colours, blur and noise."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
import torch.nn.functional as F

from sd_perception_ros.skeleton import MIRRORED
from sd_perception_ros.types import Sample


def mirror(sample: Sample) -> Sample:
    """
    Swap left and right.

    Normals point the other way along x, too, and a left hand becomes a right one.
    """
    mirrored = {name: value.flip(-1) for name, value in sample.items() if name != 'joints'}
    if 'normals' in mirrored:
        mirrored['normals'] = mirrored['normals'] * torch.tensor([-1.0, 1, 1]).view(1, 3, 1, 1)
    if 'joints' in sample:
        u, v, flag = sample['joints'][..., list(MIRRORED), :].unbind(-1)
        u = torch.where(flag > 0, sample['image'].shape[-1] - 1 - u, u)
        mirrored['joints'] = torch.stack([u, v, flag], -1)
    return mirrored


def crop(sample: Sample, top: int, left: int, height: int, width: int) -> Sample:
    """Cut the same window, in pixels, out of every map; joints outside become zeros."""
    cut = {
        name: value[..., top : top + height, left : left + width]
        for name, value in sample.items()
        if name != 'joints'
    }
    if 'joints' in sample:
        moved = sample['joints'] - torch.tensor([left, top, 0.0])
        size = torch.tensor([width, height])
        # A pixel reaches half a pixel around its centre.
        inside = ((moved[..., :2] - (size - 1) / 2).abs() <= size / 2).all(-1)
        seen = inside & (moved[..., 2] > 0)
        cut['joints'] = torch.where(seen[..., None], moved, 0.0)
    return cut


def thin(sample: Sample, cell: int, row: int, column: int) -> Sample:
    """
    Keep one pixel of every cell x cell block of every map: the one at (row, column) in it.

    Values stay values of real pixels: a mean of two depths is the depth of nothing. Over random
    rows and columns, the middle of the kept pixels is the middle of their blocks. No joints.
    """
    return {
        name: value[..., row::cell, column::cell]
        for name, value in sample.items()
        if name != 'joints'
    }


def jitter(image: Tensor, rng: np.random.Generator) -> Tensor:
    """
    Change a picture as another camera would: exposure, tint, saturation, contrast, blur, noise.

    :param image: (1, 3, H, W) in -1..1.
    """
    light = (image + 1) / 2
    gamma = float(np.exp(rng.normal(0, 0.2)))
    light = light.clamp(1e-3, 1) ** gamma * float(np.exp(rng.normal(0, 0.15)))
    tint = torch.from_numpy(np.exp(rng.normal(0, 0.08, 3)).astype(np.float32))
    light = light * tint.view(1, 3, 1, 1)
    gray = light.mean(1, keepdim=True)
    light = gray + (light - gray) * float(rng.uniform(0.3, 1.5))
    middle = light.mean((1, 2, 3), keepdim=True)
    light = middle + (light - middle) * float(rng.uniform(0.7, 1.3))
    if rng.random() < 0.3:
        light = _blur(light, float(rng.uniform(0.4, 1.2)))
    if rng.random() < 0.5:
        noise = rng.normal(0, rng.uniform(0.005, 0.04), light.shape).astype(np.float32)
        light = light + torch.from_numpy(noise)
    return (light.clamp(0, 1) * 2 - 1).float()


def _blur(image: Tensor, sigma_px: float) -> Tensor:
    offsets = torch.arange(-3, 4, dtype=torch.float32)
    weights = torch.exp(-offsets.square() / (2 * sigma_px**2))
    row = (weights / weights.sum()).view(1, 1, 1, 7).expand(3, 1, 1, 7)
    padded = F.pad(image, (3, 3, 3, 3), mode='replicate')
    return F.conv2d(F.conv2d(padded, row, groups=3), row.transpose(2, 3), groups=3)
