"""pretrain --stage tiny_encoder: tune a tiny encoder to the latents of a base's KL encoder."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn, Tensor

from sd_perception_ros.backbones.autoencoders import (
    check_same_latents,
    check_tiny_scale,
    stride_of,
)
from sd_perception_ros.backbones.small import small_tiny
from sd_perception_ros.checkpoint import checkpoint
from sd_perception_ros.checkpoint.finetuning import is_checkpoint, kl_encoder
from sd_perception_ros.checkpoint.reader import Reader
from sd_perception_ros.checkpoint.weight_files import has_weights
from sd_perception_ros.checkpoint.weights import load_tiny, save_model
from sd_perception_ros.cli.following import follow
from sd_perception_ros.cli.jobs.train import crop_height
from sd_perception_ros.cli.tables import aligned
from sd_perception_ros.data.dataset import Dataset
from sd_perception_ros.images import fitted_size, pad_to_stride, resize
from sd_perception_ros.safe_save import write_text
from sd_perception_ros.training.options import TrainingConfig
from sd_perception_ros.training.processes import device
from sd_perception_ros.training.state import discard_state
from sd_perception_ros.training.tiny_encoder import (
    latent_error,
    output_error,
    train_tiny_encoder,
)

NAME = 'tiny_encoder'
FIGURES = 'tiny_encoder.json'
LEARNING_RATE, TUNING_RATE = 1e-3, 2e-4  # of a fresh encoder, and of one that is tuned further
EMA_DECAY = 0.999
MEASURED_FRAMES = 16  # evenly spaced
MOST_PX = 768  # longer side of measured frames for a base without a size


def run(arguments: argparse.Namespace, dataset: Dataset) -> int:
    """Train the encoder unless it is there, then measure it."""
    folder = arguments.out / NAME
    vae = kl_encoder(arguments.base)
    if has_weights(folder):
        print(f'{folder} is there: the tiny encoder is trained')
    else:
        _train(arguments, dataset, vae, folder)
    tiny = load_tiny(folder, Reader(), encodes=True)
    figures = _measure(arguments.base, dataset, vae.to(device()), tiny.to(device()))
    write_text(arguments.out / FIGURES, json.dumps(figures, indent=1))
    _print(figures)
    print(f'to use it, add to checkpoint.yaml: tiny_encoder: {folder.resolve()}')
    return 0


def _train(arguments: argparse.Namespace, dataset: Dataset, vae: Any, folder: Path) -> None:
    tiny = _start(arguments, vae)
    config = TrainingConfig(
        steps=arguments.tiny_steps,
        batch_size=arguments.batch_size,
        learning_rate=TUNING_RATE if arguments.tiny_from else LEARNING_RATE,
        ema_decay=EMA_DECAY,
        precision=arguments.precision,
        seed=arguments.seed,
    )
    state = arguments.out / f'{NAME}_training'
    log = train_tiny_encoder(tiny, vae, dataset, config, arguments.tiny_sizes, state)
    follow('tiny encoder', log, config, arguments.out)
    tiny.decoder = nn.Identity()  # the encoder alone is written
    save_model(folder, tiny, torch.float32)
    discard_state(state)


def _start(arguments: argparse.Namespace, vae: Any) -> Any:
    """Return the encoder that the training starts from, of the latents of `vae`."""
    if arguments.tiny_from:
        tiny = load_tiny(arguments.tiny_from, Reader(), encodes=True)
        print(f'starting from {arguments.tiny_from}')
    else:
        channels = vae.config.latent_channels
        tiny = small_tiny(arguments.tiny_channels, channels, stride_of(vae))
    check_same_latents(vae, tiny, NAME)
    check_tiny_scale(tiny, NAME)
    return tiny


def _measure(base: Path, dataset: Dataset, vae: Any, tiny: Any) -> dict[str, Any]:
    indices = dataset.evenly_spaced(MEASURED_FRAMES)
    if not is_checkpoint(base):
        images = [as_served(dataset.image(i), 0, stride_of(vae)) for i in indices]
        return {'latents': latent_error(tiny, vae, images), 'outputs': {}}
    model, config = checkpoint.load(str(base))
    model.to(device())
    images = [
        _crop_size(dataset.image(i), crop_px)
        if (crop_px := crop_height(model.tasks.values()))
        else as_served(dataset.image(i), config.long_side_px, model.stride)
        for i in indices
    ]
    return {
        'latents': latent_error(tiny, vae, images),
        'outputs': output_error(model, tiny, images),
    }


def _crop_size(image: Tensor, height: int) -> Tensor:
    return resize(image, height, height * 3 // 4)


def as_served(image: Tensor, long_side_px: int, stride: int) -> Tensor:
    """
    Resize and pad an image as it is served.

    :param image: (1, 3, H, W).
    :param long_side_px: of the checkpoint; 0: the image's own, up to 768 px.
    """
    height, width = image.shape[-2:]
    side_px = long_side_px or min(max(height, width), MOST_PX)
    resized = resize(image, *fitted_size(height, width, side_px))
    return pad_to_stride(resized, stride)


def _print(figures: dict[str, Any]) -> None:
    latents = figures['latents']
    rows = [('latent', f'{latents["rms_error"]:.3f}')]
    rows += [(f'output of {task}', f'{error:.3f}') for task, error in figures['outputs'].items()]
    print('difference from the KL encoder, root mean square / standard deviation:')
    print('\n'.join(aligned(rows)))
