"""Fine-tune a pre-trained denoiser for some tasks and write a checkpoint."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from sd_perception_ros.checkpoint import checkpoint, config_file
from sd_perception_ros.checkpoint.config_file import CheckpointConfig, MOST_PX
from sd_perception_ros.checkpoint.finetuning import base_folder, is_checkpoint, model_to_finetune
from sd_perception_ros.checkpoint.licenses import license_near
from sd_perception_ros.checkpoint.weights import weights_fingerprint
from sd_perception_ros.cli.arguments import add_data, add_options, from_options, parse, size
from sd_perception_ros.cli.following import follow
from sd_perception_ros.cli.versions import commit
from sd_perception_ros.data.dataset import Dataset
from sd_perception_ros.data.latents import latents_of
from sd_perception_ros.data.opening import open_data
from sd_perception_ros.data.resident import resident
from sd_perception_ros.heads import HEADS
from sd_perception_ros.tasks import TASKS
from sd_perception_ros.training.finetune import previews, train
from sd_perception_ros.training.loop import device, discard_state, is_main
from sd_perception_ros.training.options import FinetuneConfig, TrainingConfig, WindowConfig

SMALL_PART = 3  # times as long as a window: pictures of which it shows no whole thing

EXAMPLE = """\
examples:
  python -m sd_perception_ros train --recipe config/train/small.yaml \\
      --base runs/pretrained --data data/rooms/train --out runs/small
  python -m sd_perception_ros train --base runs/pretrained --data data/rooms/train \\
      --out runs/depth_normals --tasks depth normals --steps 6000 --learning-rate 5e-4
  python -m sd_perception_ros train --recipe config/train/sd21_depth.yaml --out runs/depth \\
      --data hypersim:data/hypersim@9 vkitti2:data/vkitti2@1
  accelerate launch --num_processes 4 -m sd_perception_ros train --recipe ...
  accelerate launch --num_processes 4 --use_fsdp --fsdp_version 2 \\
      --fsdp_auto_wrap_policy TRANSFORMER_BASED_WRAP \\
      --fsdp_transformer_layer_cls_to_wrap ResnetBlock2D,BasicTransformerBlock \\
      -m sd_perception_ros train --recipe ...

A stopped run goes on where it was. All tasks share one denoiser: a robot pays for it once.
--base is any folder in the layout of diffusers: vae, unet, text encoder or prompt.safetensors;
or a checkpoint, whose readouts go on, too: --base bundled fits the small model to your pictures.
--data is of any kind that docs/data.md lists; look at it first: data inspect.
Several processes do the same steps as one, each with its part of the batch; with FSDP, each
also keeps only its part of the weights.
Curves and pictures: tensorboard --logdir runs
"""


def parser() -> argparse.ArgumentParser:
    """Describe the arguments."""
    made = argparse.ArgumentParser(
        prog='train',
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument(
        '--base',
        type=Path,
        required=True,
        help='Folder with vae and unet, or a checkpoint to go on from, such as bundled',
    )
    add_data(made, required=True)
    made.add_argument('--out', type=Path, required=True, help='Checkpoint folder to write')
    made.add_argument(
        '--latents', type=Path, help='Latents that pretrain made of this data (default: in --base)'
    )
    made.add_argument('--tasks', nargs='+', choices=TASKS, default=['depth', 'normals'])
    made.add_argument('--head', choices=HEADS, default='light', help='default: %(default)s')
    made.add_argument(
        '--task-options',
        nargs='+',
        default=[],
        metavar='TASK.NAME=VALUE',
        help="Such as 'segmentation.classes=[road, grass, other]'",
    )
    made.add_argument(
        '--sizes',
        nargs='+',
        type=size,
        default=[(128, 192), (192, 256)],
        help='Windows, each for an equal share of the steps (default: 192x128 256x192)',
    )
    made.add_argument(
        '--license',
        default=CheckpointConfig.license,
        help="Of the weights (default: as the base's model card says)",
    )
    add_options(made, TrainingConfig)
    add_options(made, FinetuneConfig)
    add_options(made, WindowConfig)
    return made


def main(argv: list[str] | None = None) -> int:
    """Train, then write the checkpoint folder."""
    arguments = parse(parser(), argv)
    config = from_options(TrainingConfig, arguments)
    tuning = from_options(FinetuneConfig, arguments)
    windows = from_options(WindowConfig, arguments)
    if (arguments.out / config_file.FILE).exists():
        raise ValueError(f'{arguments.out} holds a finished checkpoint; choose another --out')
    torch.manual_seed(config.seed)
    opened = open_data(arguments.data, keep=True)
    if is_main():
        opened.check()
    dataset = resident(opened, device())
    options = _options(arguments.task_options)
    for task in TASKS.keys() - set(arguments.tasks):
        options.pop(task, None)  # a recipe has options for all of its tasks
    model = model_to_finetune(arguments.base, arguments.tasks, arguments.head, options=options)
    base = base_folder(arguments.base)
    file = arguments.latents or base / 'latents.safetensors'
    latents = None
    if file.is_file() and windows.fit == 'crop':  # latents are of pictures at their own scale
        source = f'{dataset.fingerprint()} {weights_fingerprint(base / "vae")}'
        latents = latents_of(file, source)
    if arguments.latents and latents is None:
        raise ValueError(
            f'{file} is not of this data, at its own scale, and this encoder; make it anew with '
            'pretrain, and train with --fit crop'
        )
    known = f'latents from {file}' if latents is not None else 'pictures encoded in each step'
    if latents is not None:
        latents = latents.to(device())
    if is_main():
        print(f'{len(dataset)} frames in {dataset.name}, {known}')
    long_side_px = _long_side(dataset, arguments.sizes[-1], windows.fit)
    if (
        is_main()
        and windows.fit == 'crop'
        and long_side_px > SMALL_PART * max(arguments.sizes[-1])
    ):
        print(
            f'note: windows of {max(arguments.sizes[-1])} px are small parts of pictures that are '
            f'served at {long_side_px} px; --fit cover shows the network whole ones'
        )
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
    made = CheckpointConfig(
        long_side_px=long_side_px,
        license=_license(arguments.license, base),
        provenance={
            'base': arguments.base.name,
            'commit': commit(),
            'frames': len(dataset),
            'data': dataset.fingerprint(),
            'recipe': dataset.recipe(),
            'windows': [f'{width}x{height}' for height, width in arguments.sizes],
            'training': asdict(config),
            'finetuning': asdict(tuning),
            'fit': windows.fit,
            'losses': losses,
        },
    )
    checkpoint.save(arguments.out, model, made)
    discard_state(arguments.out)
    print(f'wrote {arguments.out / config_file.FILE}')
    return 0


def _long_side(dataset: Dataset, window: tuple[int, int], fit: str) -> int:
    """Return the longer side at which the model sees whole pictures as large as in training."""
    sides = []
    for index in dataset.evenly_spaced(16):
        height, width = dataset.image(index).shape[-2:]
        covers = max(window[0] / height, window[1] / width)
        sides.append(max(height, width) * (covers if fit == 'cover' else max(covers, 1)))
    return min(round(float(np.median(sides))), MOST_PX)


def _options(words: list[str]) -> dict[str, dict[str, Any]]:
    """Read 'task.name=value' words, the values in YAML, as options by task."""
    options: dict[str, dict[str, Any]] = {}
    for word in words:
        path, equals, text = word.partition('=')
        task, dot, name = path.partition('.')
        if not (equals and dot):
            raise ValueError(f"expected TASK.NAME=VALUE, got '{word}'")
        options.setdefault(task, {})[name] = yaml.safe_load(text)
    return options


def _license(given: str, base: Path) -> str:
    """Return the licence given, else the base's, which binds what is made of it."""
    if given != CheckpointConfig.license:
        return given
    if is_checkpoint(base):
        return config_file.read_config(base / config_file.FILE).license
    return license_near(base) or given


if __name__ == '__main__':
    raise SystemExit(main())
