"""Pre-train a small latent diffusion model on images without labels: autoencoder, denoiser."""

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
from sd_perception_ros.data.windows import random_position, resize_to_fit
from sd_perception_ros.tasks.losses import gradient_loss
from sd_perception_ros.training.loop import run_training
from sd_perception_ros.training.options import TrainingConfig

Log = Iterator[tuple[int, dict[str, float]]]


class _Autoencoder(nn.Module):
    """An autoencoder whose forward pass takes an image and the noise of its latent."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, image: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) and (B, c, h, w) -> reconstruction and KL divergence of each latent."""
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
    Train an autoencoder on crops of images; yields (steps done, losses by name).

    =========== =================================================================================
    pixels      absolute and squared error
    gradients   error of the image gradients, for sharp edges
    blocks      error of the mean colour of each 8 x 8 block: without it, a small autoencoder
                learns brightness first and colours late or never
    kl          1e-6 x KL divergence of the latents from the unit normal distribution
    =========== =================================================================================

    Stable Diffusion weighs KL by 1e-6 against the *sum* over pixels, which is negligible
    against their mean. With 1e-5 against the mean, the latents lost their colours.

    :param vae: trained in place.
    :param size: (height, width) of the crops, multiples of 8.
    :param folder: for the training state, from which a stopped run is resumed.
    """
    stride = 2 ** (len(vae.config.block_out_channels) - 1)
    latents = (config.batch_size, vae.config.latent_channels, size[0] // stride, size[1] // stride)

    def losses_of(autoencoder: Any, step: int, part: slice) -> dict[str, Tensor]:
        image = random_crops(dataset, config, size, step, part).to(vae.device)
        output, divergence = autoencoder(image, torch.randn(latents)[part].to(vae.device))
        valid = image.new_ones(len(image), 1, *size, dtype=torch.bool)
        return {
            'pixels': F.l1_loss(output, image) + F.mse_loss(output, image),
            'gradients': gradient_loss(output, image, valid),
            'blocks': F.l1_loss(F.avg_pool2d(output, 8), F.avg_pool2d(image, 8)),
            'kl': 1e-6 / image[0].numel() * divergence.mean(),
        }

    identity = {'data': dataset.fingerprint(), 'size': size}
    yield from run_training(_Autoencoder(vae.train()), losses_of, config, folder, identity)


@torch.inference_mode()
def measure_scaling_factor(vae: Any, dataset: Dataset, frames: int = 64) -> float:
    """Return the factor that scales the latents of some frames to a standard deviation of 1."""
    indices = np.linspace(0, len(dataset) - 1, min(frames, len(dataset))).astype(int)
    latents = [
        vae.encode(dataset.images([int(i)]).to(vae.device)).latent_dist.mean for i in indices
    ]
    # Images may differ in size.
    return 1 / float(torch.cat([latent.flatten() for latent in latents]).std())


def train_denoiser(
    unet: Any,
    latents: Tensor,
    draw: Callable[[np.random.Generator], int],
    prompt: Tensor,
    config: TrainingConfig,
    size: tuple[int, int],
    folder: Path,
    identity: Mapping[str, object],
) -> Log:
    """
    Train a denoiser by v-prediction; yields (steps done, losses by name).

    The noise schedule is that of Stable Diffusion (scaled linear, 1000 steps, arXiv 2112.10752);
    the target is v = sqrt(alpha) noise - sqrt(1 - alpha) latent (arXiv 2202.00512).

    :param latents: (V, N, c, h, w) float16: V variants of N frames.
    :param draw: returns the index of a random frame, by weight for a mixture of data sets.
    :param prompt: (1, T, D), the frozen embedding.
    :param size: (height, width) of the windows, in cells of the latent.
    :param identity: identifies latents and denoiser; see `run_training`.
    """
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64).square()
    alphas = torch.cumprod(1 - betas, 0).float()

    def losses_of(denoiser: Any, step: int, part: slice) -> dict[str, Tensor]:
        latent = _latent_windows(latents, draw, config, size, step)
        timestep = torch.randint(0, 1000, (len(latent),))[part].to(unet.device)
        noise = torch.randn_like(latent)[part].to(unet.device)
        latent = latent[part].to(unet.device)
        alpha = alphas.to(unet.device)[timestep].view(-1, 1, 1, 1)
        noisy = alpha.sqrt() * latent + (1 - alpha).sqrt() * noise
        velocity = alpha.sqrt() * noise - (1 - alpha).sqrt() * latent
        embedding = prompt.to(unet.device).expand(len(latent), -1, -1)
        predicted = denoiser(noisy, timestep, embedding).sample
        return {'v_prediction': F.mse_loss(predicted, velocity)}

    yield from run_training(unet.train(), losses_of, config, folder, {**identity, 'size': size})


def random_crops(
    dataset: Dataset,
    config: TrainingConfig,
    size: tuple[int, int],
    step: int,
    part: slice,
    shrinks: bool = False,
) -> Tensor:
    """
    Return random crops of a step's batch, half of them with other colours.

    :param part: which of the batch's crops.
    :param shrinks: half of the images are first resized to between once and twice the crop.
    :returns: (B, 3, H, W) in -1..1.
    """
    rngs = [np.random.default_rng((config.seed, step, i)) for i in range(config.batch_size)[part]]
    frames = [dataset.draw(rng) for rng in rngs]
    images = (
        torch.split(dataset.images(frames), 1) if dataset.uniform else map(dataset.image, frames)
    )
    crops = []
    for image, rng in zip(images, rngs, strict=True):
        mirrored = image.flip(-1) if rng.random() < 0.5 else image
        fit = 'zoom' if shrinks and rng.random() < 0.5 else 'crop'
        sample = resize_to_fit({'image': mirrored}, size, fit, rng)
        crops.append(crop(sample, *random_position(sample, size, rng), *size)['image'])
    original = torch.cat(crops)
    jittered = torch.tensor([rng.random() < 0.5 for rng in rngs]).to(original.device)
    return torch.where(jittered.view(-1, 1, 1, 1), color_jitter(original, rngs), original)


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
