"""Inspect data before a training (contact sheet, statistics), or write shards."""

from __future__ import annotations

import argparse
import sys

from tqdm import tqdm

from sd_perception_ros.cli.contact_sheet import write_png
from sd_perception_ros.cli.data_checks import print_notes
from sd_perception_ros.cli.data_sheet import contact_sheet
from sd_perception_ros.data.formats.shards import write_shards
from sd_perception_ros.data.opening import open_data
from sd_perception_ros.data.statistics import DataStatistics
from sd_perception_ros.paths import printable


def inspect(arguments: argparse.Namespace) -> int:
    """Draw a contact sheet and print statistics; return 1 if frames or truths are broken."""
    dataset = open_data(arguments.data)
    print(
        f'{dataset.name}: {len(dataset)} frames with '
        f'{", ".join(dataset.truths) or "no ground truth"}'
    )
    print_notes(dataset)
    if arguments.read:  # otherwise all files are read anyway, and broken ones are listed
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
    for note in statistics.unknown_frames().values():
        print(f'note: {note}')
    faults = statistics.faults().values()
    for fault in faults:
        print(f'error: {fault}', file=sys.stderr)
    if drawn:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        try:
            write_png(arguments.out, contact_sheet(drawn))
        except ValueError:
            raise OSError(f'cannot write {arguments.out}; use a name that ends in .png') from None
        print(f'wrote {printable(arguments.out)}; unknown pixels are a checkerboard')
    if broken:
        print(
            f'error: {broken} of {statistics.frames + broken} frames are broken', file=sys.stderr
        )
    return 1 if broken or faults else 0


def shards(arguments: argparse.Namespace) -> int:
    """Write a data set as shards."""
    dataset = open_data(arguments.data, size=arguments.frame_size)
    dataset.check()
    with tqdm(total=len(dataset), unit='frame', mininterval=1) as bar:
        for done in write_shards(dataset, arguments.out, arguments.frames_each):
            bar.update(done - bar.n)
    print(f'wrote {arguments.out}: --data shards:{arguments.out}')
    return 0
