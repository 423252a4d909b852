"""Cut people and objects out of one frame and paste them into another, with occlusion."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sd_perception_ros.data.windows import resize_sample
from sd_perception_ros.skeleton import OUTSIDE
from sd_perception_ros.types import Sample

NEEDED_TO_PASTE = ('depth_m', 'foreground', 'matte')
SMALLEST, LARGEST = 0.4, 2.0  # scale of pasted objects
SEEN = 0.5  # fraction of a pixel


def paste(sample: Sample, donor: Sample, rng: np.random.Generator) -> Sample:
    """
    Paste the people of another frame, or all of its people and objects, into a frame.

    They are scaled and shifted; at twice the size, the depth is half. In each pixel the nearer
    surface is visible. Normals are unknown where something was pasted: the viewing angle has
    changed.

    :param sample: a batch of frames with NEEDED_TO_PASTE; not modified.
    :param donor: the same number of frames, with the same size and ground truth.
    """
    height, width = sample['image'].shape[-2:]
    scale = float(np.exp(rng.uniform(np.log(SMALLEST), np.log(LARGEST))))
    across = round(float(rng.uniform(-0.5, 0.5)) * width)
    down = round(float(rng.uniform(-0.15, 0.15)) * height)
    cut = {name: value for name, value in donor.items() if name != 'joints'}
    if rng.random() < 0.5:
        cut['foreground'] = cut['matte']  # people only
    moved = _moved(cut, scale, across, down)
    depth_m = moved['depth_m'] / scale
    # Pixels of unknown alpha are not pasted; unknown depth is behind everything.
    share = moved['foreground'].nan_to_num(0.0)
    before = depth_m.nan_to_num(torch.inf) < sample['depth_m'].nan_to_num(torch.inf)
    share = torch.where(before, share, 0.0)
    people = torch.minimum(moved['matte'].nan_to_num(0.0), share)
    seen = share > SEEN
    pasted = dict(sample)
    pasted['image'] = torch.lerp(sample['image'], moved['image'], share)
    pasted['depth_m'] = torch.where(seen, depth_m, sample['depth_m'])
    pasted['foreground'] = share + (1 - share) * sample['foreground']
    pasted['matte'] = people + (1 - share) * sample['matte']
    if 'labels' in sample:
        pasted['labels'] = torch.where(seen, moved['labels'], sample['labels'])
    if 'normals' in sample:
        pasted['normals'] = torch.where(seen, 0.0, sample['normals'])
    if 'joints' in sample:
        hidden = _hidden(sample['joints'], seen)
        arrived = _moved_joints(donor['joints'], scale, across, down, (height, width))
        pasted['joints'] = torch.cat([hidden, _behind(arrived, seen)], 1)
    return pasted


def _moved(maps: Sample, scale: float, across: int, down: int) -> Sample:
    """Scale maps about the centre of their frame, then shift them; new pixels are unknown."""
    height, width = maps['image'].shape[-2:]
    scaled = resize_sample(maps, max(round(height * scale), 1), max(round(width * scale), 1))
    top = down + (height - scaled['image'].shape[-2]) // 2
    left = across + (width - scaled['image'].shape[-1]) // 2
    moved = {}
    for name, value in scaled.items():
        canvas = value.new_full((*value.shape[:2], height, width), _EMPTY.get(name, 0.0))
        rows, source_rows = _overlap(top, value.shape[-2], height)
        columns, source_columns = _overlap(left, value.shape[-1], width)
        canvas[..., rows, columns] = value[..., source_rows, source_columns]
        moved[name] = canvas
    return moved


_EMPTY = {'depth_m': torch.nan, 'labels': 255.0}


def _overlap(start: int, length: int, size: int) -> tuple[slice, slice]:
    """Return the overlap of an interval (start, length) with 0..size, in both coordinates."""
    low, high = max(start, 0), max(min(start + length, size), 0)
    low = min(low, high)
    return slice(low, high), slice(low - start, high - start)


def _moved_joints(
    joints: Tensor, scale: float, across: int, down: int, size: tuple[int, int]
) -> Tensor:
    height, width = size
    # As for the maps: whole pixels, and edges stay on edges.
    tall, wide = max(round(height * scale), 1), max(round(width * scale), 1)
    u, v, flag = joints.unbind(-1)
    u = (u + 0.5) * wide / width - 0.5 + across + (width - wide) // 2
    v = (v + 0.5) * tall / height - 0.5 + down + (height - tall) // 2
    inside = (u > -0.5) & (u < width - 0.5) & (v > -0.5) & (v < height - 0.5)
    flag = torch.where(inside | (flag == 0), flag, OUTSIDE)
    return torch.where(flag[..., None] != 0, torch.stack([u, v, flag], -1), 0.0)


def _behind(joints: Tensor, seen: Tensor) -> Tensor:
    """Mark joints as hidden where the pasted pixel is not visible; drop fully hidden people."""
    hidden = _hidden(joints, ~seen)
    is_visible = (hidden[..., 2] == 2).any(-1)
    return torch.where(is_visible[..., None, None], hidden, 0.0)


def _hidden(joints: Tensor, covered: Tensor) -> Tensor:
    """Mark visible joints as hidden (1) where a (B, 1, H, W) mask covers them."""
    height, width = covered.shape[-2:]
    u = joints[..., 0].round().long().clamp(0, width - 1)
    v = joints[..., 1].round().long().clamp(0, height - 1)
    batch = torch.arange(len(joints), device=joints.device).view(-1, 1, 1)
    under = covered[:, 0][batch, v, u] & (joints[..., 2] == 2)
    flag = torch.where(under, 1.0, joints[..., 2])
    return torch.cat([joints[..., :2], flag[..., None]], -1)
