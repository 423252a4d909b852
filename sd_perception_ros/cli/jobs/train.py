"""Fine-tune a pre-trained denoiser for one or more tasks and write a checkpoint."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import asdict
from functools import partial
import os
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
from sd_perception_ros.cli.following import follow, ValidationLog
from sd_perception_ros.cli.versions import commit
from sd_perception_ros.data.dataset import Dataset
from sd_perception_ros.data.latents import latents_of
from sd_perception_ros.data.opening import open_data
from sd_perception_ros.data.resident import resident
from sd_perception_ros.model import Model
from sd_perception_ros.people.crops import ASPECT, second_look_size
from sd_perception_ros.skeleton import JOINTS
from sd_perception_ros.tasks.person_pose import PersonPose
from sd_perception_ros.tasks.task import Task
from sd_perception_ros.training.finetune import check_data, previews, train
from sd_perception_ros.training.options import (
    FinetuneConfig,
    TrainingConfig,
    ValidationConfig,
    WindowConfig,
)
from sd_perception_ros.training.processes import device, is_main, processes
from sd_perception_ros.training.state import STATE, steps_done
from sd_perception_ros.training.validation import best_of, Validation

LARGE_IMAGE = 3  # ratio of image to window size above which windows show only parts of objects


def run(
    arguments: argparse.Namespace,
    options: dict[str, dict[str, Any]],
    config: TrainingConfig,
    tuning: FinetuneConfig,
    windows: WindowConfig,
    validating: ValidationConfig,
) -> int:
    """
    Train, then write the checkpoint folder.

    :param options: options by task.
    """
    _check_finished(arguments.out, config.steps)
    torch.manual_seed(config.seed)
    opened = open_data(arguments.data, keep=True)
    if is_main():
        opened.check()
        print_notes(opened)
    model = model_to_finetune(arguments.base, arguments.tasks, arguments.head, options=options)
    crop_px = crop_height(model.tasks.values())
    if crop_px:
        arguments.sizes = [(crop_px, round(crop_px * ASPECT))]
    # Crops of people are cut from files.
    dataset = opened if crop_px else resident(opened, device())
    if is_main():
        check_truths(opened, {task.truth for task in model.tasks.values()})
    base = base_folder(arguments.base)
    latents = _latents(arguments.latents, base, dataset, windows)
    long_side_px = crop_px or _long_side(dataset, arguments.sizes[-1], windows.fit)
    title = '+'.join(arguments.tasks)
    board = ValidationLog(title, model.tasks, arguments.out)
    validation = _validation(arguments, validating, model, windows.fit, board)
    if is_main():
        input_ = 'latents of pretrain' if latents is not None else 'images encoded in each step'
        print(f'{len(dataset)} frames in {dataset.name}, {input_}')
        print(_where(arguments.out, config))
        _warn_of_small_windows(max(arguments.sizes[-1]), long_side_px, windows)
        _note_untrained_joints(model.tasks.values())
        if windows.crops and not crop_px:
            _note_size_of_crops(max(map(max, arguments.sizes)), long_side_px)
    shown = dataset if validation is None else validation.dataset
    losses = follow(
        title,
        train(
            model,
            dataset,
            latents,
            config,
            arguments.sizes,
            arguments.out,
            tuning,
            windows,
            validation,
        ),
        config,
        arguments.out,
        partial(previews, model, shown, arguments.sizes[-1], windows.fit),
    )
    if not is_main():
        return 0
    provenance = _provenance(arguments, dataset, config, tuning, windows) | {'losses': losses}
    if validation is not None:
        provenance['validation'] = _best(arguments, board)
    licence = arguments.license or _license_of(base, str(arguments.base))
    checkpoint_config = CheckpointConfig(
        long_side_px=long_side_px, license=licence, provenance=provenance
    )
    checkpoint.save(arguments.out, model, checkpoint_config)
    print(f'wrote {arguments.out / config_file.FILE}')
    print(
        f'{arguments.out / STATE} is kept: the same command with more --steps goes on from there; '
        'delete it if you will not'
    )
    return 0


def _check_finished(folder: Path, steps: int) -> None:
    """
    Refuse a folder with a checkpoint, unless its training can go on.

    :raises ValueError: it holds a checkpoint whose state has done `steps` steps, or is gone.
    """
    if not (folder / config_file.FILE).exists():
        return
    done = steps_done(folder)
    if not done:
        raise ValueError(f'{folder} holds a finished checkpoint; choose another --out')
    if done >= steps:
        raise ValueError(
            f'{folder} holds a finished checkpoint of {done} steps; choose another --out, or go '
            f'on with --steps above {done}'
        )


def _where(folder: Path, config: TrainingConfig) -> str:
    """Return on what this training runs, and from which step it goes on."""
    count, done = processes(), steps_done(folder)
    where = f'{count} process{"es" if count > 1 else ""} on {device().type}'
    # accelerate launch sets it. Without --cpu it starts one process where there is no GPU.
    if count == 1 and device().type == 'cpu' and 'ACCELERATE_MIXED_PRECISION' in os.environ:
        where += ' (for several on a CPU: accelerate launch --cpu --num_processes N)'
    since = f'going on from step {done} of {config.steps}' if done else f'{config.steps} steps'
    return f'{where}, {config.batch_size} images a step, {config.precision}; {since}'


def _validation(
    arguments: argparse.Namespace,
    config: ValidationConfig,
    model: Model,
    fit: str,
    board: ValidationLog,
) -> Validation | None:
    """
    Open the data of --validate, if there is any.

    :raises ValueError: it lacks the truth of a task.
    """
    if not arguments.validate:
        return None
    opened = open_data(arguments.validate, keep=True)
    if is_main():
        opened.check()
    check_data(model, opened)
    size = arguments.sizes[-1]
    return Validation(model, opened, size, fit, config, arguments.out, board)


def _provenance(
    arguments: argparse.Namespace,
    dataset: Dataset,
    config: TrainingConfig,
    tuning: FinetuneConfig,
    windows: WindowConfig,
) -> dict[str, Any]:
    """Return from what and how the weights were made, for checkpoint.yaml."""
    return {
        'base': arguments.base.name,
        'commit': commit(),
        'recipe_file': str(arguments.recipe or ''),
        'sets': list(arguments.data),
        'frames': len(dataset),
        'data': dataset.fingerprint(),
        'recipe': dataset.recipe(),
        'windows': [f'{width}x{height}' for height, width in arguments.sizes],
        'training': asdict(config),
        'finetuning': asdict(tuning),
        'augmentation': asdict(windows),
    }


def _best(arguments: argparse.Namespace, board: ValidationLog) -> dict[str, Any]:
    """Return what is known of the weights that were kept, for the provenance."""
    found = best_of(arguments.out)
    assert found is not None
    about: dict[str, Any] = {'sets': list(arguments.validate)}
    about |= {'best_step': found[0], 'loss': round(found[1], 4)}
    if board.best is not None:
        about['metrics'] = {
            task: {name: round(value, 4) for name, value in metrics.items()}
            for task, metrics in board.best.metrics.items()
        }
    return about


def _latents(
    file: Path | None, base: Path, dataset: Dataset, windows: WindowConfig
) -> torch.Tensor | None:
    """
    Load the latents of this data from pretrain to the device; None if there are none.

    :param file: None: those in `base`, if they match.
    :raises ValueError: `file` has other data, or does not match the options.
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


def crop_height(tasks: Iterable[Task]) -> int:
    """Return the height of the crops of people that a model reads; 0: it reads pictures."""
    return max((task.crop_height_px for task in tasks if isinstance(task, PersonPose)), default=0)


def _note_untrained_joints(tasks: Iterable[Task]) -> None:
    for task in tasks:
        if isinstance(task, PersonPose) and task.channels > len(JOINTS):
            print(
                f'note: data sets have {len(JOINTS)} of the {task.channels} joints; the others '
                'are not trained, and change as the denoiser does'
            )


def _note_size_of_crops(window_px: int, long_side_px: int) -> None:
    """Say where people are seen smaller in training than a second look will show them."""
    (trained, _), (served, _) = second_look_size(window_px), second_look_size(long_side_px)
    if trained != served:
        print(
            f'note: crops in training are up to {trained} px high, those of a second look '
            f'{served} px; choose --sizes with a longer side of {long_side_px} px, or --fit cover'
        )


def _long_side(dataset: Dataset, window: tuple[int, int], fit: str) -> int:
    """Return the longer image side at which objects have the scale of the training."""
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
