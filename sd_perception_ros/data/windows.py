"""Windows of one size from pictures of any: scaled, then cut, the truth with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor
import torch.nn.functional as F

from sd_perception_ros.data.augment import crop
from sd_perception_ros.images import resize
from sd_perception_ros.types import Sample

T = TypeVar('T')


def resize_sample(sample: Sample, height: int, width: int) -> Sample:
    """
    Scale a picture and its truth.

    Pictures, shares and normals are means over what a new pixel covers, where half of it or more
    is known; normals are unit vectors again. A mean of two depths is the depth of nothing, and
    of two class ids the id of another class: they are those of the nearest pixel. Joints move
    along.
    """
    if sample['image'].shape[-2:] == (height, width):
        return sample
    scale_x, scale_y = width / sample['image'].shape[-1], height / sample['image'].shape[-2]
    scaled = {}
    for name, value in sample.items():
        if name == 'joints':
            # Pixel centres are integers, so edges lie at -0.5: edges stay on edges.
            u, v, flag = value.unbind(-1)
            u, v = (u + 0.5) * scale_x - 0.5, (v + 0.5) * scale_y - 0.5
            moved = torch.stack([u, v, flag], -1)
            scaled[name] = torch.where(flag[..., None] != 0, moved, 0.0)
        elif name in ('depth_m', 'labels'):
            scaled[name] = F.interpolate(value, (height, width), mode='nearest-exact')
        elif name == 'normals':
            mean = resize(value, height, width)
            length = mean.norm(dim=1, keepdim=True)
            scaled[name] = torch.where(length > 0.5, mean / length.clamp(min=0.5), 0.0)
        elif name == 'image':
            scaled[name] = resize(value, height, width)
        else:
            scaled[name] = _mean_of_known(value, height, width)
    return scaled


def resize_to_cover(sample: Sample, size: tuple[int, int], enlarge_only: bool = False) -> Sample:
    """
    Scale a picture and its truth until it just covers a window.

    :param size: (height, width) of the window.
    :param enlarge_only: leave pictures that are larger than the window as they are.
    """
    height, width = sample['image'].shape[-2:]
    scale = max(size[0] / height, size[1] / width)
    if enlarge_only and scale <= 1:
        return sample
    return resize_sample(
        sample, max(round(height * scale), size[0]), max(round(width * scale), size[1])
    )


def center_crop(sample: Sample, size: tuple[int, int], enlarge_only: bool = False) -> Sample:
    """
    Return the window of a size in the middle of a picture that just covers it.

    :param enlarge_only: leave pictures that are larger than the window at their scale.
    """
    sample = resize_to_cover(sample, size, enlarge_only)
    height, width = sample['image'].shape[-2:]
    return crop(sample, (height - size[0]) // 2, (width - size[1]) // 2, *size)


def random_position(
    sample: Sample, size: tuple[int, int], rng: np.random.Generator, stride: int = 1
) -> tuple[int, int]:
    """Return (top, left) of a random window within a picture, in multiples of a stride."""
    height, width = sample['image'].shape[-2:]
    top = stride * int(rng.integers((height - size[0]) // stride + 1))
    left = stride * int(rng.integers((width - size[1]) // stride + 1))
    return top, left


class Prefetcher(Generic[T]):
    """
    Makes the things of a step while the step before it is still computed, in threads.

    What is made depends on (step, place) alone, so it is the same with any number of threads.

    :param make: called with (step, place in the batch).
    """

    def __init__(self, make: Callable[[int, int], T], pool: ThreadPoolExecutor | None) -> None:
        self._make = make
        self._pool = pool
        self._begun: dict[tuple[int, int], Future[T]] = {}

    def take(self, step: int, places: range) -> list[T]:
        """Return the things at some places of a step, and begin with those of the next step."""
        if self._pool is None:
            return [self._make(step, place) for place in places]
        for key in [(s, place) for s in (step, step + 1) for place in places]:
            if key not in self._begun:
                self._begun[key] = self._pool.submit(self._make, *key)
        return [self._begun.pop((step, place)).result() for place in places]


@contextmanager
def prefetch(make: Callable[[int, int], T], workers: int) -> Iterator[Prefetcher[T]]:
    """Make things ahead with so many threads, which end with the block."""
    if not workers:
        yield Prefetcher(make, None)
        return
    pool = ThreadPoolExecutor(workers)
    try:
        yield Prefetcher(make, pool)
    finally:
        pool.shutdown(cancel_futures=True)


def _mean_of_known(value: Tensor, height: int, width: int) -> Tensor:
    """Resize the values that are not NaN; a pixel of which less than half is known is NaN."""
    known = ~value.isnan()
    share = resize(known.float(), height, width)
    mean = resize(value.nan_to_num(0.0), height, width) / share.clamp(min=1e-6)
    return torch.where(share >= 0.5, mean, torch.nan)
