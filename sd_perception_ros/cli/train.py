"""Fine-tune a pre-trained denoiser for some tasks and write a checkpoint."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import yaml

from sd_perception_ros.cli.arguments import add_data, add_options, from_options, parse, size
from sd_perception_ros.heads import HEADS
from sd_perception_ros.tasks import TASKS
from sd_perception_ros.training.options import FinetuneConfig, TrainingConfig, WindowConfig

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
        prog='python -m sd_perception_ros train',
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
    made.add_argument('--license', help="Of the weights (default: as the base's model card says)")
    add_options(made, TrainingConfig)
    add_options(made, FinetuneConfig)
    add_options(made, WindowConfig)
    return made


def main(argv: list[str] | None = None) -> int:
    """Read the arguments, then train."""
    arguments = parse(parser(), argv)
    options = _options(arguments.task_options)
    for task in TASKS.keys() - set(arguments.tasks):
        options.pop(task, None)  # a recipe has options for all of its tasks
    config = from_options(TrainingConfig, arguments)
    tuning = from_options(FinetuneConfig, arguments)
    windows = from_options(WindowConfig, arguments)
    from sd_perception_ros.cli.jobs.train import run

    return run(arguments, options, config, tuning, windows)


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


if __name__ == '__main__':
    raise SystemExit(main())
