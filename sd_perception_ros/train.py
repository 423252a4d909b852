"""Fine-tune a pre-trained denoiser and its readouts in one deterministic step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sd_perception_ros.data.augment import crop, jitter, mirror, thin
from sd_perception_ros.data.rooms import RoomsDataset
from sd_perception_ros.images import resize
from sd_perception_ros.model import Model
from sd_perception_ros.optimize import optimize, OptimizeConfig
from sd_perception_ros.types import Sample


def train(
    model: Model,
    dataset: RoomsDataset,
    latents: Tensor | None,
    config: OptimizeConfig,
    sizes: Sequence[tuple[int, int]],
    state: Path,
) -> Iterator[tuple[int, dict[str, float]]]:
    """
    Fit the denoisers and heads of a model; yields (steps done, losses by task).

    The encoder stays frozen, as the paper has it: what it makes of a picture is the input.

    :param model: trained in place.
    :param latents: (V, N, c, h, w) float16 of the data set, encoded before (even variants as they
        are, odd ones mirrored); None encodes each step's pictures.
    :param sizes: (height, width) of the windows, in pixels, multiples of the stride. Each serves
        an equal share of the steps: small ones first learn the most in an hour.
    :param state: file that a stopped run goes on from.
    """
    model.train().requires_grad_(False)
    for backbone in model.backbones.values():
        backbone.trainable().requires_grad_(True)
    for head in model.heads.values():
        head.requires_grad_(True)

    def losses_of(step: int) -> dict[str, Tensor]:
        size = sizes[step * len(sizes) // config.steps]
        rng = np.random.default_rng((config.seed, step))
        latent, sample = _batch(model, dataset, latents, config.batch, size, rng)
        outputs = model.read(latent, model.tasks)
        losses = {}
        for name, task in model.tasks.items():
            raw = outputs[name].float()
            # The loss is taken where the head answers: enlarging its answer to every pixel cost
            # more time than the network did.
            cell = max(size[0] // raw.shape[-2], 1)
            phase = rng.integers(cell, size=2)
            target, valid = task.target(thin(sample, cell, *phase) if task.dense else sample)
            losses[name] = task.loss(resize(raw, *target.shape[-2:]), target, valid)
        return losses

    about = {
        'data': dataset.fingerprint(),
        'tasks': list(model.tasks),
        'heads': [type(head).__name__ for head in model.heads.values()],
        'sizes': list(sizes),
    }
    yield from optimize(model, losses_of, config, state, about)
    model.eval().requires_grad_(False)


def _batch(
    model: Model,
    dataset: RoomsDataset,
    latents: Tensor | None,
    batch: int,
    size: tuple[int, int],
    rng: np.random.Generator,
) -> tuple[Tensor, Sample]:
    """Return a step's windows: latent (B, c, h, w) and truth (B, C, H, W)."""
    frames = [int(i) for i in rng.integers(len(dataset), size=batch)]
    sample = dataset.batch(frames)
    variants = rng.integers(2 if latents is None else len(latents), size=batch)
    mirrored = torch.from_numpy(variants % 2 == 1).view(-1, 1, 1, 1)
    flipped = mirror(sample)
    sample = {name: torch.where(mirrored, flipped[name], value) for name, value in sample.items()}
    stride = model.stride
    height, width = sample['image'].shape[-2:]
    # Windows start on latent cells, so that a window of the latent is a window of the picture.
    top = stride * int(rng.integers((height - size[0]) // stride + 1))
    left = stride * int(rng.integers((width - size[1]) // stride + 1))
    sample = crop(sample, top, left, *size)
    if latents is None:
        images = torch.cat([jitter(image[None], rng) for image in sample['image']])
        with torch.no_grad():
            return model.encode(images), sample
    latent = latents[torch.from_numpy(variants), torch.tensor(frames)].float()
    window = (top // stride, left // stride, size[0] // stride, size[1] // stride)
    return crop({'latent': latent}, *window)['latent'], sample
