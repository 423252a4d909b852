"""Measure a checkpoint on frames with ground truth, beside a guess that never looks."""

from __future__ import annotations

import argparse
from pathlib import Path

from sd_perception_ros.cli.arguments import add_data, add_options
from sd_perception_ros.config import EngineConfig
from sd_perception_ros.evaluation.protocols import PROTOCOLS

EXAMPLE = """\
examples:
  python -m sd_perception_ros evaluate --data data/rooms/heldout --train data/rooms/train
  python -m sd_perception_ros evaluate --data nyuv2:data/nyu:test --protocol nyu \\
      --checkpoint runs/depth --json nyu.json --pictures nyu_worst --worst 12
  python -m sd_perception_ros evaluate --data data/rooms/heldout --checkpoint runs/new \\
      --against bundled

Depth is compared after each image's least-squares scale and shift, as affine-invariant depth is,
and disparity likewise in 1 / depth; a protocol says in which range and in which part of a picture.
GenPercept's figures are in fp32 at the pictures' own size: --precision fp32 --long-side-px 640 for
NYU and ScanNet, 1216 for KITTI; 756 for ETH3D, 640 for DIODE. COCO's AP is over all pictures of a
split, with the areas of its outlines.
--against answers whether one checkpoint is better: differences with 95 % intervals of a paired
bootstrap over the pictures, and a * where zero is outside.
"""

RUN_OPTIONS = ('device', 'precision', 'runtime', 'long_side_px')  # of EngineConfig


def parser() -> argparse.ArgumentParser:
    """Describe the arguments."""
    made = argparse.ArgumentParser(
        prog='python -m sd_perception_ros evaluate',
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    add('--checkpoint', default=EngineConfig.checkpoint, help='%(default)s')
    add_data(made, required=True, help='Frames to measure on')
    add_data(made, '--train', help='Frames whose mean target is the guess')
    add_options(made, EngineConfig, only=RUN_OPTIONS)
    add('--protocol', choices=PROTOCOLS, default='any', help='Range and part of depth that count')
    add('--against', help='Another checkpoint, to compare with')
    add('--resamples', type=int, default=1000, help='Of the bootstrap (default: %(default)s)')
    add('--seed', type=int, default=0, help='Of the bootstrap (default: %(default)s)')
    add('--json', type=Path, help='File for all figures, of every frame, too, and versions')
    add('--record', action='store_true', help="Write the figures into the checkpoint's file, too")
    add('--pictures', type=Path, help='Folder for a sheet of the worst pictures of each task')
    add('--worst', type=int, default=8, help='Pictures on a sheet (default: %(default)s)')
    return made


def main(argv: list[str] | None = None) -> int:
    """Read the arguments, then measure."""
    arguments = parser().parse_args(argv)
    _check(arguments)
    from sd_perception_ros.cli.jobs.evaluate import run

    return run(arguments)


def _check(arguments: argparse.Namespace) -> None:
    """Refuse what would only fail after everything was measured; make the folders."""
    EngineConfig(**{name: getattr(arguments, name) for name in RUN_OPTIONS})
    for name in ('resamples', 'worst'):
        if getattr(arguments, name) < 1:
            raise ValueError(f'--{name} must be at least 1, got {getattr(arguments, name)}')
    if arguments.pictures:
        arguments.pictures.mkdir(parents=True, exist_ok=True)
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)


if __name__ == '__main__':
    raise SystemExit(main())
