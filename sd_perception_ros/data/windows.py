"""Training windows: resize and crop images together with their ground truth."""

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
MAX_ZOOM = 2.0  # a window then has half of the width or height of an image


def resize_sample(sample: Sample, height: int, width: int) -> Sample:
    """
    Resize an image and its ground truth.

    =================  ============================================================================
    image, alpha       mean over the area of the new pixel, where at least half of it is known
    normals            the same, normalised to unit length
    depth, labels      nearest pixel: a mean would mix surfaces or classes
    joints             scaled coordinates
    =================  ============================================================================
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
    Resize an image and its ground truth until it just covers a window.

    :param size: (height, width) of the window.
    :param enlarge_only: do not shrink images that are larger than the window.
    """
    height, width = sample['image'].shape[-2:]
    scale = max(size[0] / height, size[1] / width)
    if enlarge_only and scale <= 1:
        return sample
    return resize_sample(
        sample, max(round(height * scale), size[0]), max(round(width * scale), size[1])
    )


def resize_to_fit(
    sample: Sample, size: tuple[int, int], fit: str, rng: np.random.Generator
) -> Sample:
    """
    Scale an image and its ground truth for a window, as `WindowConfig.fit` describes.

    :param size: (height, width) of the window.
    """
    if fit != 'zoom':
        return resize_to_cover(sample, size, enlarge_only=fit == 'crop')
    zoom = float(np.exp(rng.uniform(0, np.log(MAX_ZOOM))))
    return resize_to_cover(sample, (round(size[0] * zoom), round(size[1] * zoom)))


def center_crop(sample: Sample, size: tuple[int, int], enlarge_only: bool = False) -> Sample:
    """
    Resize an image to cover a window, then crop its centre.

    :param enlarge_only: do not shrink images that are larger than the window.
    """
    sample = resize_to_cover(sample, size, enlarge_only)
    height, width = sample['image'].shape[-2:]
    return crop(sample, (height - size[0]) // 2, (width - size[1]) // 2, *size)


def random_position(
    sample: Sample, size: tuple[int, int], rng: np.random.Generator, stride: int = 1
) -> tuple[int, int]:
    """Return (top, left) of a random window within an image, in multiples of a stride."""
    height, width = sample['image'].shape[-2:]
    top = stride * int(rng.integers((height - size[0]) // stride + 1))
    left = stride * int(rng.integers((width - size[1]) // stride + 1))
    return top, left


class Prefetcher(Generic[T]):
    """
    Loads the items of the next step in threads while the current step is computed.

    An item depends only on (step, index), so it is the same with any number of threads.

    :param load: called with (step, index in the batch).
    :param pool: None: items are loaded when they are taken.
    """

    def __init__(self, load: Callable[[int, int], T], pool: ThreadPoolExecutor | None) -> None:
        self._load = load
        self._pool = pool
        self._futures: dict[tuple[int, int], Future[T]] = {}

    def take(self, step: int, indices: range, following: int | None = None) -> list[T]:
        """
        Return items of a step, and start to load the same items of the next step.

        :param following: the next step that takes items; None: `step + 1`.
        """
        if self._pool is None:
            return [self._load(step, index) for index in indices]
        following = step + 1 if following is None else following
        for key in [(s, index) for s in (step, following) for index in indices]:
            if key not in self._futures:
                self._futures[key] = self._pool.submit(self._load, *key)
        return [self._futures.pop((step, index)).result() for index in indices]


@contextmanager
def prefetch(load: Callable[[int, int], T], workers: int) -> Iterator[Prefetcher[T]]:
    """Load items in threads, which end with the `with` block; 0 workers: no threads."""
    if not workers:
        yield Prefetcher(load, None)
        return
    pool = ThreadPoolExecutor(workers)
    try:
        yield Prefetcher(load, pool)
    finally:
        pool.shutdown(cancel_futures=True)


def _mean_of_known(value: Tensor, height: int, width: int) -> Tensor:
    """Resize values; NaN where less than half of the area of the new pixel is known."""
    known = ~value.isnan()
    share = resize(known.float(), height, width)
    mean = resize(value.nan_to_num(0.0), height, width) / share.clamp(min=1e-6)
    return torch.where(share >= 0.5, mean, torch.nan)
