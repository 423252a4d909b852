"""Tune a tiny encoder to the latents of a KL autoencoder, on images without labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn, Tensor

from sd_perception_ros.backbones.autoencoders import encode, VAE
from sd_perception_ros.data.dataset import Dataset
from sd_perception_ros.model import Model
from sd_perception_ros.training.loop import run_training
from sd_perception_ros.training.options import TrainingConfig
from sd_perception_ros.training.pretrain import Log, random_crops
from sd_perception_ros.training.processes import device


class _Encoder(nn.Module):
    """The encoder of a tiny autoencoder: an image to its scaled latent."""

    def __init__(self, tiny: VAE) -> None:
        super().__init__()
        self.encoder: Any = tiny.encoder

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in -1..1 -> (B, c, h, w)."""
        latent: Tensor = self.encoder(image)
        return latent


def train_tiny_encoder(
    tiny: VAE,
    vae: VAE,
    dataset: Dataset,
    config: TrainingConfig,
    sizes: Sequence[tuple[int, int]],
    folder: Path,
) -> Log:
    """
    Train an encoder to give the latents of another one; yields (steps done, losses by name).

    The loss is the absolute and the squared difference of the scaled latents, whose standard
    deviation is about 1. The target is the mean of the KL encoder, without noise.

    :param tiny: its encoder is trained in place.
    :param vae: its encoder is imitated; it stays as it is.
    :param sizes: (height, width) of the crops, multiples of the stride; each step draws one. Half
        of the images are cropped at their own scale, the others are shrunk before.
    :param folder: for the training state, from which a stopped run is resumed.
    """
    vae = vae.to(device()).eval().requires_grad_(False)

    def losses_of(encoder: Any, step: int, part: slice) -> dict[str, Tensor]:
        # The numbers below the batch size are those of crops.
        rng = np.random.default_rng((config.seed, step, config.batch_size))
        size = sizes[int(rng.integers(len(sizes)))]
        image = random_crops(dataset, config, size, step, part, shrinks=True).to(device())
        with torch.no_grad():
            target = encode(vae, image)
        difference = encoder(image).float() - target
        return {'absolute': difference.abs().mean(), 'squared': difference.square().mean()}

    identity = {
        'data': dataset.fingerprint(),
        'sizes': list(sizes),
        'imitated': _digest(vae.state_dict()),
        'start': _digest(tiny.state_dict()),
    }
    tiny.to(device()).train().requires_grad_(True)
    network = _Encoder(tiny)
    yield from run_training(network, losses_of, config, folder, identity)
    tiny.eval().requires_grad_(False)


@torch.no_grad()
def latent_error(tiny: VAE, vae: VAE, images: Iterable[Tensor]) -> dict[str, float]:
    """
    Return how far the latents of two encoders are apart, as shares of their spread.

    :param images: (1, 3, H, W) in -1..1, sides that are multiples of the stride.
    :returns: `rms_error` and `mean_error`, divided by the standard deviation of the latents of
        `vae`; and that `std`.
    """
    differences, latents = [], []
    for image in images:
        target = encode(vae, image.to(vae.device))
        differences.append((encode(tiny, image.to(tiny.device)).to(target) - target).flatten())
        latents.append(target.flatten())
    difference, std = torch.cat(differences), torch.cat(latents).std()
    return {
        'rms_error': float(difference.square().mean().sqrt() / std),
        'mean_error': float(difference.abs().mean() / std),
        'std': float(std),
    }


@torch.no_grad()
def output_error(model: Model, tiny: VAE, images: Sequence[Tensor]) -> dict[str, float]:
    """
    Return what a tiny encoder changes in the raw outputs of a model, by task.

    :param model: with its own encoder, as which it is left.
    :param images: (1, 3, H, W) in -1..1, sides that are multiples of the stride.
    :returns: root mean square of the difference, divided by the standard deviation of the output.
    """
    backbones: list[Any] = list(model.backbones.values())
    where = next(model.parameters()).device
    own = [model(image.to(where)) for image in images]
    for backbone in backbones:
        backbone.use_tiny(tiny.to(where), backbone.tiny_decoder)
    changed = [model(image.to(where)) for image in images]
    for backbone in backbones:
        backbone.use_tiny(None, backbone.tiny_decoder)
    errors = {}
    for task in model.tasks:
        before, after = (
            torch.cat([outputs[task].float().flatten() for outputs in each])
            for each in (own, changed)
        )
        errors[task] = float((after - before).square().mean().sqrt() / before.std())
    return errors


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors.values():
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
