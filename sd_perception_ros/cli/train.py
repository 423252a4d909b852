"""Fine-tune a pre-trained denoiser for one or more tasks and write a checkpoint."""

from __future__ import annotations

import argparse
from typing import Any

import yaml

from sd_perception_ros.cli.arguments import (
    add_data,
    add_options,
    command_parser,
    from_options,
    parse,
    size,
)
from sd_perception_ros.heads import NEW_HEADS
from sd_perception_ros.paths import user_path
from sd_perception_ros.tasks import TASKS
from sd_perception_ros.training.options import (
    FinetuneConfig,
    TrainingConfig,
    ValidationConfig,
    WindowConfig,
)

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

resume            run the same command again; with more --steps it extends a finished run
--base            a folder in the layout of diffusers: vae, unet, and a text encoder or
                  prompt.safetensors; or a checkpoint, whose heads are trained further, too:
                  --base bundled adapts the small model to your images
--data            formats: docs/data.md; check your data first: data inspect
--tasks           all tasks share one denoiser, which runs once per frame
several GPUs      each process trains on its share of a batch; with FSDP it also stores only its
                  share of the weights
loss and images   tensorboard --logdir runs
"""


def parser() -> argparse.ArgumentParser:
    """Describe the arguments."""
    made = command_parser('train', __doc__, EXAMPLE, allow_abbrev=False)
    made.add_argument(
        '--base',
        type=user_path,
        required=True,
        help='Folder with vae and unet, or a checkpoint, such as bundled',
    )
    add_data(made, required=True)
    add_data(
        made,
        '--validate',
        default=[],
        help='Held-out pictures and their truth, measured while training; the checkpoint then has '
        'the weights with the lowest loss on them',
    )
    made.add_argument('--out', type=user_path, required=True, help='Checkpoint folder to write')
    made.add_argument(
        '--latents',
        type=user_path,
        metavar='FILE',
        help='Latents of this data from pretrain (default: those in --base, if they match)',
    )
    made.add_argument(
        '--tasks',
        nargs='+',
        choices=TASKS,
        default=['depth', 'normals'],
        metavar='TASK',
        help=f'Any of {", ".join(TASKS)} (default: depth normals)',
    )
    made.add_argument(
        '--head',
        choices=NEW_HEADS,
        default='light',
        help='Head of new tasks (default: %(default)s)',
    )
    made.add_argument(
        '--task-options',
        nargs='+',
        default=[],
        metavar='TASK.NAME=VALUE',
        help="Options of tasks, such as 'segmentation.classes=[road, grass, other]'",
    )
    made.add_argument(
        '--sizes',
        nargs='+',
        type=size,
        default=[(128, 192), (192, 256)],
        metavar='WIDTHxHEIGHT',
        help='Training windows, in order, each for an equal share of the steps '
        '(default: 192x128 256x192)',
    )
    made.add_argument(
        '--license', help="Licence of the weights (default: from the base's model card)"
    )
    add_options(made, TrainingConfig)
    add_options(made, FinetuneConfig)
    add_options(made, WindowConfig)
    add_options(made, ValidationConfig)
    return made


def main(argv: list[str] | None = None) -> int:
    """Read the arguments, then train."""
    arguments = parse(parser(), argv)
    options = _options(arguments.task_options)
    for task in TASKS.keys() - set(arguments.tasks):
        options.pop(task, None)  # a recipe may have options of other tasks
    config = from_options(TrainingConfig, arguments)
    tuning = from_options(FinetuneConfig, arguments)
    windows = from_options(WindowConfig, arguments)
    validating = from_options(ValidationConfig, arguments)
    from sd_perception_ros.cli.jobs.train import run

    return run(arguments, options, config, tuning, windows, validating)


def _options(words: list[str]) -> dict[str, dict[str, Any]]:
    """Parse 'task.name=value' words, the values in YAML, into options by task."""
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
