"""Inspect data before a training (contact sheet, statistics), or write WebDataset shards."""

from __future__ import annotations

import argparse
from pathlib import Path

from sd_perception_ros.cli.arguments import add_data, command_parser, size
from sd_perception_ros.paths import user_path

EXAMPLE = """\
examples:
  python -m sd_perception_ros data inspect --data data/rooms/train --out rooms.png
  python -m sd_perception_ros data inspect --data hypersim:data/hypersim --read 0
  python -m sd_perception_ros data shards --data hypersim:data/hypersim --out data/shards

inspect reads evenly spaced frames; --read 0 reads all frames and lists the broken ones.
Formats, and how to add your own data: docs/data.md
"""


def parser() -> argparse.ArgumentParser:
    """Describe the arguments."""
    made = command_parser('data', __doc__, EXAMPLE)
    commands = made.add_subparsers(dest='action', required=True, metavar='inspect or shards')
    inspect = commands.add_parser('inspect', help='write a contact sheet and print statistics')
    add_data(inspect, required=True)
    add = inspect.add_argument
    add(
        '--out',
        type=user_path,
        default=Path('data.png'),
        help='Image file to write (default: %(default)s)',
    )
    add('--rows', type=int, default=8, help='Frames on the contact sheet (default: %(default)s)')
    add(
        '--read',
        type=int,
        default=100,
        help='Frames to read for the statistics; 0: all (default: %(default)s)',
    )
    shards = commands.add_parser('shards', help='write WebDataset shards (tar files)')
    add_data(shards, required=True)
    add = shards.add_argument
    add('--out', type=user_path, required=True, help='Folder to write')
    add('--frames-each', type=int, default=1000, help='Frames per tar file (default: %(default)s)')
    add(
        '--frame-size',
        type=size,
        metavar='WIDTHxHEIGHT',
        help='Resize every image to cover this size, then crop its centre',
    )
    return made


def main(argv: list[str] | None = None) -> int:
    """Read the arguments, then inspect or write shards."""
    arguments = parser().parse_args(argv)
    from sd_perception_ros.cli.jobs.data import inspect, shards

    return inspect(arguments) if arguments.action == 'inspect' else shards(arguments)


if __name__ == '__main__':
    raise SystemExit(main())
