"""Latents of a data set, encoded once: the encoder is frozen, so training need not repeat it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.torch import load_file, save_file
import torch
from torch import Tensor

from sd_perception_ros.data.augment import jitter, mirror
from sd_perception_ros.data.rooms import RoomsDataset

# Variants come in pairs: even as it is, odd mirrored. The first pair keeps its colours.
VARIANTS = 4


def latents_of(file: Path, source: str) -> Tensor | None:
    """
    Return (VARIANTS, N, c, h, w) float16 latents from a file, if they are of this source.

    :param source: names the data set and the encoder, as `encode_dataset` was told.
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
    dataset: RoomsDataset,
    encode: Callable[[Tensor], Tensor],
    source: str,
    seed: int,
    batch: int = 8,
) -> Iterator[int]:
    """
    Encode every variant of every frame and write the file; yields the frames that are done.

    :param encode: (B, 3, H, W) in -1..1 -> (B, c, h, w).
    :param source: names the data set and the encoder, for `latents_of`.
    """
    chunks = []
    for start in range(0, len(dataset), batch):
        indices = range(start, min(start + batch, len(dataset)))
        images = torch.cat([_variants(dataset, index, seed) for index in indices])
        latents = encode(images)
        chunks.append(latents.view(len(indices), VARIANTS, *latents.shape[1:]).half())
        yield indices[-1] + 1
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix('.part')
    latents = torch.cat(chunks).transpose(0, 1).contiguous()
    save_file({'latents': latents}, part, metadata={'source': source})
    part.replace(file)


def _variants(dataset: RoomsDataset, index: int, seed: int) -> Tensor:
    rng = np.random.default_rng((seed, index))
    image = dataset.image(index)
    images = []
    for pair in range(VARIANTS // 2):
        colored = image if pair == 0 else jitter(image, rng)
        images += [colored, mirror({'image': colored})['image']]
    return torch.cat(images)
