"""Bake a bank of posed, clothed people for the synthetic rooms; needs the package anny."""

from __future__ import annotations

import argparse
import importlib.util
import sys

from tqdm import tqdm

from sd_perception_ros.cli.arguments import command_parser
from sd_perception_ros.paths import user_path
from sd_perception_ros.synthetic.baking import bake

EPILOG = """\
example:
  python -m venv anny && . anny/bin/activate     # preferably a separate environment
  python -m pip install -r requirements/train.txt anny==0.6.2
  python -m sd_perception_ros bake-bodies --out data/bodies.npz
  python -m sd_perception_ros synthesize --bodies data/bodies.npz --out data/rooms/train

The first run takes a minute or two longer: anny prepares and caches its data (790 MB).
"""


def parser() -> argparse.ArgumentParser:
    """Describe the arguments."""
    made = command_parser('bake-bodies', __doc__, EPILOG)
    made.add_argument('--out', type=user_path, required=True, help='File (.npz) to write')
    made.add_argument('--count', type=int, default=240, help='Bodies (default: %(default)s)')
    made.add_argument(
        '--seed',
        type=int,
        default=1,
        help='Random seed; equal seeds give equal bodies (default: %(default)s)',
    )
    return made


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    args = parser().parse_args(argv)
    if importlib.util.find_spec('anny') is None:
        raise ValueError(
            'baking needs the Python package anny, which is not installed: '
            'python -m pip install -r requirements/train.txt anny==0.6.2, preferably into an '
            'environment of its own'
        )
    for _ in tqdm(bake(args.out, args.count, args.seed), total=args.count, unit='body'):
        pass
    return 0


if __name__ == '__main__':
    sys.exit(main())
