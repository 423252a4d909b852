"""Fine-tune a pre-trained denoiser for one or more tasks and write a checkpoint."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sd_perception_ros.checkpoint import checkpoint, config_file
from sd_perception_ros.checkpoint.config_file import CheckpointConfig, MOST_PX
from sd_perception_ros.checkpoint.finetuning import base_folder, is_checkpoint, model_to_finetune
from sd_perception_ros.checkpoint.licenses import terms_of
from sd_perception_ros.checkpoint.weights import weights_fingerprint
from sd_perception_ros.cli.data_checks import check_truths, print_notes
from sd_perception_ros.cli.following import follow
from sd_perception_ros.cli.versions import commit
from sd_perception_ros.data.dataset import Dataset
from sd_perception_ros.data.latents import latents_of
from sd_perception_ros.data.opening import open_data
from sd_perception_ros.data.resident import resident
from sd_perception_ros.training.finetune import previews, train
from sd_perception_ros.training.options import FinetuneConfig, TrainingConfig, WindowConfig
from sd_perception_ros.training.processes import device, is_main
from sd_perception_ros.training.state import discard_state

LARGE_IMAGE = 3  # times as long as a window, which then shows only parts of objects


def run(
    arguments: argparse.Namespace,
    options: dict[str, dict[str, Any]],
    config: TrainingConfig,
    tuning: FinetuneConfig,
    windows: WindowConfig,
) -> int:
    """
    Train, then write the checkpoint folder.

    :param options: of tasks, by their names.
    """
    if (arguments.out / config_file.FILE).exists():
        raise ValueError(f'{arguments.out} holds a finished checkpoint; choose another --out')
    torch.manual_seed(config.seed)
    opened = open_data(arguments.data, keep=True)
    if is_main():
        opened.check()
        print_notes(opened)
    dataset = resident(opened, device())
    model = model_to_finetune(arguments.base, arguments.tasks, arguments.head, options=options)
    if is_main():
        check_truths(opened, {task.truth for task in model.tasks.values()})
    base = base_folder(arguments.base)
    latents = _latents(arguments.latents, base, dataset, windows)
    long_side_px = _long_side(dataset, arguments.sizes[-1], windows.fit)
    if is_main():
        input_ = 'latents of pretrain' if latents is not None else 'images encoded in each step'
        print(f'{len(dataset)} frames in {dataset.name}, {input_}')
        _warn_of_small_windows(max(arguments.sizes[-1]), long_side_px, windows)
    losses = follow(
        '+'.join(arguments.tasks),
        train(model, dataset, latents, config, arguments.sizes, arguments.out, tuning, windows),
        config.steps,
        arguments.out,
        partial(previews, model, dataset, arguments.sizes[-1], windows.fit),
        config.save_every,
    )
    if not is_main():
        return 0
    provenance = {
        'base': arguments.base.name,
        'commit': commit(),
        'frames': len(dataset),
        'data': dataset.fingerprint(),
        'recipe': dataset.recipe(),
        'windows': [f'{width}x{height}' for height, width in arguments.sizes],
        'training': asdict(config),
        'finetuning': asdict(tuning),
        'augmentation': asdict(windows),
        'losses': losses,
    }
    licence = arguments.license or _license_of(base, str(arguments.base))
    checkpoint_config = CheckpointConfig(
        long_side_px=long_side_px, license=licence, provenance=provenance
    )
    checkpoint.save(arguments.out, model, checkpoint_config)
    discard_state(arguments.out)
    print(f'wrote {arguments.out / config_file.FILE}')
    return 0


def _latents(
    file: Path | None, base: Path, dataset: Dataset, windows: WindowConfig
) -> torch.Tensor | None:
    """
    Load the latents that pretrain made of this data, to the device; None: there are none.

    :param file: None: those in `base`, if they match.
    :raises ValueError: `file` is of other data, or does not match the options.
    """
    path = file or base / 'latents.safetensors'
    latents = None
    if path.is_file() and windows.cuts_latents:
        source = f'{dataset.fingerprint()} {weights_fingerprint(base / "vae")}'
        latents = latents_of(path, source)
    if file and latents is None:
        raise ValueError(
            f'expected latents of this data at its own scale and of this encoder, got {file}; '
            'make them again with pretrain, and train with --fit crop, --appearance color and '
            '--paste 0'
        )
    return latents if latents is None else latents.to(device())


def _warn_of_small_windows(window_px: int, long_side_px: int, windows: WindowConfig) -> None:
    if windows.fit == 'crop' and long_side_px > LARGE_IMAGE * window_px:
        print(
            f'note: windows of {window_px} px are small parts of images of {long_side_px} px; '
            '--fit cover trains on whole images'
        )


def _long_side(dataset: Dataset, window: tuple[int, int], fit: str) -> int:
    """Return the longer side at which the model sees images at the scale of its training."""
    sides = []
    for index in dataset.evenly_spaced(16):
        height, width = dataset.image(index).shape[-2:]
        scale = max(window[0] / height, window[1] / width)
        sides.append(max(height, width) * (scale if fit == 'cover' else max(scale, 1)))
    return min(round(float(np.median(sides))), MOST_PX)


def _license_of(base: Path, location: str) -> str:
    """Return the licence of a base, which also binds the weights that are derived from it."""
    if is_checkpoint(base):
        return checkpoint.find_files(str(base)).config.license
    return terms_of(base, location, levels=0).name
