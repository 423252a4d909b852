"""Evaluate a checkpoint on frames with ground truth, beside a constant baseline."""

from __future__ import annotations

import argparse

from sd_perception_ros.cli.arguments import (
    add_data,
    add_options,
    command_parser,
    CROP_OPTIONS,
    RUN_OPTIONS,
)
from sd_perception_ros.config import EngineConfig
from sd_perception_ros.evaluation.protocols import PROTOCOLS
from sd_perception_ros.paths import user_path
from sd_perception_ros.people.options import TopDownOptions

EXAMPLE = """\
examples:
  python -m sd_perception_ros evaluate --data data/rooms/heldout --train data/rooms/train
  python -m sd_perception_ros evaluate --data nyuv2:data/nyu:test --protocol nyu \\
      --checkpoint runs/depth --json nyu.json --pictures nyu_worst --worst 12
  python -m sd_perception_ros evaluate --data data/rooms/heldout --checkpoint runs/new \\
      --against bundled

metrics:
  depth       after a least-squares fit of scale and shift to each image (affine-invariant depth),
              in the range and the crop of --protocol; disparity: fitted in 1 / depth
  human_pose  COCO AP over all images of a split, with the areas of the annotated outlines; a
              checkpoint that needs boxes around people gets the annotated ones
  mean target baseline of --train: the mean training target, predicted for every image
  --against   differences with 95 % intervals of a paired bootstrap over the images; * marks
              intervals that exclude zero

GenPercept measures in fp32: --precision fp32 --long-side-px 640 (NYU, ScanNet, DIODE), 1216
(KITTI), 756 (ETH3D).
"""


def parser() -> argparse.ArgumentParser:
    """Describe the arguments."""
    made = command_parser('evaluate', __doc__, EXAMPLE)
    add = made.add_argument
    add(
        '--checkpoint',
        default=EngineConfig.checkpoint,
        help='Known name, folder or checkpoint.yaml (default: %(default)s)',
    )
    add_data(made, required=True, help='Data to measure on')
    add_data(made, '--train', help='Training data, for the baseline')
    add_options(made, EngineConfig, only=RUN_OPTIONS)
    add_options(made, TopDownOptions, only=CROP_OPTIONS)
    add(
        '--protocol',
        choices=PROTOCOLS,
        default='any',
        help='Depth range and crop of a benchmark (default: %(default)s)',
    )
    add('--against', metavar='CHECKPOINT', help='Compare with another checkpoint')
    add('--resamples', type=int, default=1000, help='Bootstrap resamples (default: %(default)s)')
    add('--seed', type=int, default=0, help='Bootstrap seed (default: %(default)s)')
    add(
        '--json',
        type=user_path,
        help='Write metrics of the data and of each frame, options and versions',
    )
    add('--record', action='store_true', help='Write the metrics into checkpoint.yaml')
    add(
        '--pictures',
        type=user_path,
        help='Folder for a contact sheet of the worst images of each task',
    )
    add('--worst', type=int, default=8, help='Images on a contact sheet (default: %(default)s)')
    return made


def main(argv: list[str] | None = None) -> int:
    """Read the arguments, then measure."""
    arguments = parser().parse_args(argv)
    _check(arguments)
    from sd_perception_ros.cli.jobs.evaluate import run

    return run(arguments)


def _check(arguments: argparse.Namespace) -> None:
    """Check options that are used only after the long evaluation; create the folders."""
    EngineConfig(**{name: getattr(arguments, name) for name in RUN_OPTIONS})
    TopDownOptions(**{name: getattr(arguments, name) for name in CROP_OPTIONS})
    for name in ('resamples', 'worst'):
        if getattr(arguments, name) < 1:
            raise ValueError(f'--{name} must be at least 1, got {getattr(arguments, name)}')
    if arguments.pictures:
        arguments.pictures.mkdir(parents=True, exist_ok=True)
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)


if __name__ == '__main__':
    raise SystemExit(main())
