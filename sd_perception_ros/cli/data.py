"""Look at data before a training: contact sheets and statistics; or write it into shards."""

from __future__ import annotations

import argparse
from pathlib import Path

from sd_perception_ros.cli.arguments import add_data, size

EXAMPLE = """\
examples:
  python -m sd_perception_ros data inspect --data data/rooms/train --out rooms.png
  python -m sd_perception_ros data inspect --data hypersim:data/hypersim --read 0
  python -m sd_perception_ros data shards --data hypersim:data/hypersim --out data/shards

inspect reads some frames, evenly chosen; --read 0 reads all of them and names every broken one.
docs/data.md has the layout of every kind of data, and how to bring your own.
"""


def parser() -> argparse.ArgumentParser:
    """Describe the arguments."""
    made = argparse.ArgumentParser(
        prog='python -m sd_perception_ros data',
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = made.add_subparsers(dest='action', required=True, metavar='inspect or shards')
    inspect = commands.add_parser('inspect', help='draw a contact sheet and print statistics')
    add_data(inspect, required=True)
    add = inspect.add_argument
    add('--out', type=Path, default=Path('data.png'), help='the sheet (default: %(default)s)')
    add('--rows', type=int, default=8, help='frames on the sheet (default: %(default)s)')
    add(
        '--read',
        type=int,
        default=100,
        help='frames that are read for the statistics; 0: all (default: %(default)s)',
    )
    shards = commands.add_parser('shards', help='write WebDataset shards, for clusters')
    add_data(shards, required=True)
    add = shards.add_argument
    add('--out', type=Path, required=True, help='folder to write')
    add('--frames-each', type=int, default=1000, help='of a tar file (default: %(default)s)')
    add(
        '--frame-size',
        type=size,
        metavar='WIDTHxHEIGHT',
        help='bring every picture to this size and cut its middle out',
    )
    return made


def main(argv: list[str] | None = None) -> int:
    """Read the arguments, then run one of the two."""
    arguments = parser().parse_args(argv)
    from sd_perception_ros.cli.jobs.data import inspect, shards

    return inspect(arguments) if arguments.action == 'inspect' else shards(arguments)


if __name__ == '__main__':
    raise SystemExit(main())
