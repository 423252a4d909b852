"""Pre-train a small latent diffusion model on pictures without labels: autoencoder, denoiser."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn, Tensor
import torch.nn.functional as F

from sd_perception_ros.data.augment import color_jitter, crop
from sd_perception_ros.data.dataset import Dataset
from sd_perception_ros.data.windows import random_position, resize_to_cover
from sd_perception_ros.tasks.losses import gradient_loss
from sd_perception_ros.training.loop import run_training
from sd_perception_ros.training.options import TrainingConfig

Log = Iterator[tuple[int, dict[str, float]]]


class _Autoencoder(nn.Module):
    """An autoencoder behind one forward pass: a picture, and noise for its latent."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, image: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) and (B, c, h, w) -> the painted picture and each latent's divergence."""
        posterior = self.vae.encode(image).latent_dist
        latent = posterior.mean + posterior.std * noise
        return self.vae.decode(latent).sample, posterior.kl()


def train_autoencoder(
    vae: Any,
    dataset: Dataset,
    config: TrainingConfig,
    size: tuple[int, int],
    folder: Path,
) -> Log:
    """
    Fit an autoencoder to crops of pictures; yields (steps done, losses by name).

    The loss is the error of pixels, absolute and squared, of their slopes (for the edges), of
    each 8 x 8 block's mean colour (a small autoencoder learns brightness first and colour late or
    never), and a very weak pull of the latent towards the unit normal distribution. Stable
    Diffusion weighs it with 1e-6 against the *sum* over all pixels; against their mean that is
    next to nothing. With 1e-5 against the mean the latents lost their colours.

    :param vae: trained in place.
    :param size: (height, width) of the crops, multiples of 8.
    :param folder: where the state lies that a stopped run goes on from.
    """
    everywhere = torch.ones(1, 1, *size, dtype=torch.bool)

    stride = 2 ** (len(vae.config.block_out_channels) - 1)
    cells = (config.batch_size, vae.config.latent_channels, size[0] // stride, size[1] // stride)

    def losses_of(repaint: Any, step: int, part: slice) -> dict[str, Tensor]:
        image = _crops(dataset, config, size, step, part).to(vae.device)
        painted, divergence = repaint(image, torch.randn(cells)[part].to(vae.device))
        valid = everywhere.to(vae.device).expand(len(image), -1, -1, -1)
        return {
            'pixels': F.l1_loss(painted, image) + F.mse_loss(painted, image),
            'slopes': gradient_loss(painted, image, valid),
            'cells': F.l1_loss(F.avg_pool2d(painted, 8), F.avg_pool2d(image, 8)),
            'prior': 1e-6 / image[0].numel() * divergence.mean(),
        }

    about = {'data': dataset.fingerprint(), 'size': size}
    yield from run_training(_Autoencoder(vae.train()), losses_of, config, folder, about)


@torch.inference_mode()
def measure_scaling_factor(vae: Any, dataset: Dataset, frames: int = 64) -> float:
    """Return the factor that gives the latents of some frames a standard deviation of 1."""
    chosen = np.linspace(0, len(dataset) - 1, min(frames, len(dataset))).astype(int)
    latents = [
        vae.encode(dataset.images([int(i)]).to(vae.device)).latent_dist.mean for i in chosen
    ]
    # Pictures may differ in size.
    return 1 / float(torch.cat([latent.flatten() for latent in latents]).std())


def train_denoiser(
    unet: Any,
    latents: Tensor,
    draw: Callable[[np.random.Generator], int],
    prompt: Tensor,
    config: TrainingConfig,
    size: tuple[int, int],
    folder: Path,
    origin: Mapping[str, object],
) -> Log:
    """
    Fit a denoiser to noisy latents by v-prediction; yields (steps done, losses by name).

    The noise schedule is Stable Diffusion's (scaled linear, 1000 steps, arXiv 2112.10752); the
    target is v = sqrt(a) noise - sqrt(1 - a) latent (arXiv 2202.00512).

    :param latents: (V, N, c, h, w) float16: V variants of N frames.
    :param draw: returns the index of a random frame, as the data's weights have it.
    :param prompt: (1, T, D), the frozen embedding.
    :param size: (height, width) of latent windows.
    :param origin: what the latents are of and what the denoiser was, so that a run goes on with
        the same ones only.
    """
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64).square()
    signal = torch.cumprod(1 - betas, 0).float()

    def losses_of(denoise: Any, step: int, part: slice) -> dict[str, Tensor]:
        latent = _latent_windows(latents, draw, config, size, step)
        timestep = torch.randint(0, 1000, (len(latent),))[part].to(unet.device)
        noise = torch.randn_like(latent)[part].to(unet.device)
        latent = latent[part].to(unet.device)
        share = signal.to(unet.device)[timestep].view(-1, 1, 1, 1)
        noisy = share.sqrt() * latent + (1 - share).sqrt() * noise
        velocity = share.sqrt() * noise - (1 - share).sqrt() * latent
        words = prompt.to(unet.device).expand(len(latent), -1, -1)
        predicted = denoise(noisy, timestep, words).sample
        return {'velocity': F.mse_loss(predicted, velocity)}

    about = {**origin, 'size': size}
    yield from run_training(unet.train(), losses_of, config, folder, about)


def _crops(
    dataset: Dataset,
    config: TrainingConfig,
    size: tuple[int, int],
    step: int,
    part: slice,
) -> Tensor:
    rngs = [np.random.default_rng((config.seed, step, i)) for i in range(config.batch_size)[part]]
    chosen = [dataset.draw(rng) for rng in rngs]
    images = (
        torch.split(dataset.images(chosen), 1) if dataset.uniform else map(dataset.image, chosen)
    )
    crops = []
    for image, rng in zip(images, rngs, strict=True):
        seen = image.flip(-1) if rng.random() < 0.5 else image
        sample = resize_to_cover({'image': seen}, size, enlarge_only=True)
        crops.append(crop(sample, *random_position(sample, size, rng), *size)['image'])
    plain = torch.cat(crops)
    changed = torch.tensor([rng.random() < 0.5 for rng in rngs]).to(plain.device)
    return torch.where(changed.view(-1, 1, 1, 1), color_jitter(plain, rngs), plain)


def _latent_windows(
    latents: Tensor,
    draw: Callable[[np.random.Generator], int],
    config: TrainingConfig,
    size: tuple[int, int],
    step: int,
) -> Tensor:
    rng = np.random.default_rng((config.seed, step))
    variants = torch.from_numpy(rng.integers(latents.shape[0], size=config.batch_size))
    frames = torch.tensor([draw(rng) for _ in range(config.batch_size)])
    top = int(rng.integers(latents.shape[3] - size[0] + 1))
    left = int(rng.integers(latents.shape[4] - size[1] + 1))
    chosen = latents[variants.to(latents.device), frames.to(latents.device)].float()
    return chosen[..., top : top + size[0], left : left + size[1]]
