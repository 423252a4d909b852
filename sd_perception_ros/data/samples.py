"""Convert arrays of a frame to a sample, and samples to a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
import torch
from torch import Tensor

from sd_perception_ros.types import Sample

OF_PEOPLE = ('joints', 'bodies')  # one row per person; all others are maps


def size_mismatch(key: str, expected: Sequence[int], got: Sequence[int]) -> str:
    """
    Return the error message for a frame that differs in size from the frames before it.

    :param expected: (height, width) of the previous frames.
    :param got: (height, width) of this frame.
    """
    return (
        f'{key}: expected an image of {expected[1]} x {expected[0]} pixels, as before, got '
        f'{got[1]} x {got[0]}; resize all with --frame-size {expected[1]}x{expected[0]}'
    )


def to_tensor(name: str, array: NDArray[Any]) -> Tensor:
    """
    Convert an array of `FolderDataset.read` to a batch of one, with the conventions of `Sample`.

    :returns: (1, C, H, W), images in -1..1; (1, P, ...) for people.
    """
    tensor = torch.from_numpy(np.ascontiguousarray(array, np.float32))
    if name in OF_PEOPLE:
        return tensor[None]
    if name == 'image':
        tensor = tensor / 255 * 2 - 1
    maps = tensor if tensor.ndim == 3 else tensor[..., None]
    return maps.permute(2, 0, 1)[None].contiguous()


def collate(samples: Sequence[Sample]) -> Sample:
    """Batch samples of one size; people are padded with rows of zeros to the same number."""
    people = max(
        (sample['joints'].shape[1] for sample in samples if 'joints' in sample), default=0
    )
    batch = {}
    for name in samples[0]:
        values = [sample[name] for sample in samples]
        if name == 'joints':
            values = [_with_people(joints, people) for joints in values]
        batch[name] = torch.cat(values)
    return batch


def _with_people(joints: Tensor, people: int) -> Tensor:
    padding = joints.new_zeros(len(joints), people - joints.shape[1], *joints.shape[2:])
    return torch.cat([joints, padding], 1)
