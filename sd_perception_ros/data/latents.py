"""Latents of a data set, encoded once and reused in training: the encoder is frozen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.torch import load_file
import torch
from torch import Tensor

from sd_perception_ros.data.augment import color_jitter, mirror
from sd_perception_ros.data.dataset import Dataset
from sd_perception_ros.data.samples import size_mismatch
from sd_perception_ros.safe_save import save_safetensors

# Even variants are unchanged, odd ones mirrored. The first pair keeps its colours.
VARIANTS = 4


def latents_of(file: Path, source: str) -> Tensor | None:
    """
    Load (VARIANTS, N, c, h, w) float16 latents; None if the file is missing or has another source.

    :param source: identifies data set and encoder, as in `encode_dataset`.
    """
    if not file.is_file():
        return None
    with safe_open(file, 'pt') as opened:
        if (opened.metadata() or {}).get('source') != source:
            return None
    return load_file(file)['latents']


@torch.inference_mode()
def encode_dataset(
    file: Path,
    dataset: Dataset,
    encode: Callable[[Tensor], Tensor],
    source: str,
    seed: int,
    batch_size: int = 2,
) -> Iterator[int]:
    """
    Encode every variant of every frame and write the file; yields the number of frames done.

    :param encode: (B, 3, H, W) in -1..1 -> (B, c, h, w).
    :param source: identifies data set and encoder, for `latents_of`.
    :param batch_size: frames encoded together. More are slower on a CPU, which returns the memory
        of each large map to the system and requests it again.
    :raises ValueError: the images differ in size.
    :raises OSError: the file cannot be written.
    """
    size = dataset.image(0).shape[-2:]
    chunks = []
    for start in range(0, len(dataset), batch_size):
        indices = list(range(start, min(start + batch_size, len(dataset))))
        images = dataset.images(indices)
        if images.shape[-2:] != size:
            raise ValueError(size_mismatch(dataset.key(indices[0]), size, images.shape[-2:]))
        latents = encode(_variants(images, indices, seed))
        latents = latents.half().cpu().view(VARIANTS, len(indices), *latents.shape[1:])
        chunks.append(latents)
        yield indices[-1] + 1
    save_safetensors(file, {'latents': torch.cat(chunks, 1).contiguous()}, {'source': source})


def _variants(images: Tensor, indices: list[int], seed: int) -> Tensor:
    """(B, 3, H, W) -> (VARIANTS * B, 3, H, W), ordered by variant, then by image."""
    variants = []
    for pair in range(VARIANTS // 2):
        rngs = [np.random.default_rng((seed, index, pair)) for index in indices]
        colored = color_jitter(images, rngs) if pair else images
        variants += [colored, mirror({'image': colored})['image']]
    return torch.cat(variants)
