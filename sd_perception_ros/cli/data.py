"""Look at data before a training: contact sheets and statistics; or write it into shards."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
import sys

import cv2
from tqdm import tqdm

from sd_perception_ros.cli.arguments import add_data, size
from sd_perception_ros.cli.data_sheet import contact_sheet
from sd_perception_ros.data.formats.shards import write_shards
from sd_perception_ros.data.opening import open_data
from sd_perception_ros.data.statistics import DataStatistics

EXAMPLE = """\
examples:
  python -m sd_perception_ros data inspect --data data/rooms/train --out rooms.png
  python -m sd_perception_ros data inspect --data hypersim:data/hypersim --read 0
  python -m sd_perception_ros data shards --data hypersim:data/hypersim --out data/shards

inspect reads some frames, evenly chosen; --read 0 reads all of them and names every broken one.
docs/data.md has the layout of every kind of data, and how to bring your own.
"""


def main(argv: list[str] | None = None) -> int:
    """Run one of the two; inspect returns 1 where frames are broken."""
    parser = argparse.ArgumentParser(
        prog='data',
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar='inspect or shards')
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
    inspect.set_defaults(run=_inspect)
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
    shards.set_defaults(run=_shards)
    arguments = parser.parse_args(argv)
    run: Callable[[argparse.Namespace], int] = arguments.run
    return run(arguments)


def _inspect(arguments: argparse.Namespace) -> int:
    dataset = open_data(arguments.data)
    print(f'{dataset.name}: {len(dataset)} frames with {", ".join(dataset.truths) or "no truth"}')
    if arguments.read:  # otherwise every file is read anyway, and every broken one named
        dataset.check()
    statistics, broken = DataStatistics(dataset.classes), 0
    rows = dataset.evenly_spaced(arguments.rows)
    chosen = range(len(dataset)) if arguments.read == 0 else dataset.evenly_spaced(arguments.read)
    drawn = []
    for index in tqdm(sorted({*rows, *chosen}), 'reading', unit='frame', mininterval=1):
        try:
            sample = dataset[index]
        except (OSError, ValueError) as error:
            broken += 1
            tqdm.write(f'{dataset.key(index)}: {" ".join(str(error).split())}', file=sys.stderr)
            continue
        statistics.add(sample)
        if index in rows:
            drawn.append((dataset.key(index), sample))
    for name, line in statistics.lines().items():
        print(f'  {name:11}{line}')
    if drawn:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        if not cv2.imwrite(str(arguments.out), contact_sheet(drawn)[..., ::-1]):
            raise OSError(f'expected a picture that can be written, got {arguments.out}; try .png')
        print(f'wrote {arguments.out}; what is unknown is a checkerboard')
    if broken:
        print(
            f'error: {broken} of {statistics.frames + broken} frames are broken', file=sys.stderr
        )
    return 1 if broken else 0


def _shards(arguments: argparse.Namespace) -> int:
    dataset = open_data(arguments.data, size=arguments.frame_size)
    dataset.check()
    with tqdm(total=len(dataset), unit='frame', mininterval=1) as bar:
        for done in write_shards(dataset, arguments.out, arguments.frames_each):
            bar.update(done - bar.n)
    print(f'wrote {arguments.out}: --data shards:{arguments.out}')
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
