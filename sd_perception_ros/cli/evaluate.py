"""Measure a checkpoint on frames with ground truth, beside a guess that never looks."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import asdict
import json
import math
from pathlib import Path
from typing import Any

import cv2
from tqdm import tqdm

from sd_perception_ros.checkpoint import config_file
from sd_perception_ros.cli.arguments import add_data, add_options
from sd_perception_ros.cli.evaluate_sheets import row, sheet
from sd_perception_ros.cli.tables import aligned
from sd_perception_ros.cli.versions import commit, versions
from sd_perception_ros.config import EngineConfig
from sd_perception_ros.data.dataset import Dataset
from sd_perception_ros.data.opening import open_data
from sd_perception_ros.data.relabelled import relabel
from sd_perception_ros.engine import Engine
from sd_perception_ros.evaluation.bootstrap import Difference, paired_bootstrap
from sd_perception_ros.evaluation.evaluate import (
    each_frame,
    Figures,
    measurable,
    measure,
    measure_mean,
    Measured,
    summarize,
    to_rgb,
    worst,
)
from sd_perception_ros.evaluation.protocols import Protocol, PROTOCOLS

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

MODEL, MEAN, AGAINST = 'model', 'mean target', 'against'  # names of rows, and keys of the JSON
RUN_OPTIONS = ('device', 'precision', 'runtime', 'long_side_px')  # of EngineConfig
Differences = Mapping[str, Mapping[str, Difference]]


def parser() -> argparse.ArgumentParser:
    """Describe the arguments."""
    made = argparse.ArgumentParser(
        prog='evaluate',
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
    """Print a table for each task, and write figures and pictures if asked to."""
    arguments = parser().parse_args(argv)
    _check(arguments)
    protocol = PROTOCOLS[arguments.protocol]
    options = {name: getattr(arguments, name) for name in RUN_OPTIONS}
    engine = Engine.load(arguments.checkpoint, **options)
    other = Engine.load(arguments.against, **options) if arguments.against else None
    print(engine.summary())
    classes = next((t.class_names for t in engine.tasks.values() if hasattr(t, 'class_names')), ())
    dataset = relabel(open_data(arguments.data, measuring=True), classes)
    dataset.check()
    tasks = measurable(engine.tasks, dataset)
    left_out = {name: task.truth for name, task in engine.tasks.items() if name not in tasks}
    for why, names in (
        ('has no truth for them', [n for n, t in left_out.items() if t not in dataset.truths]),
        ('has other classes', [n for n, t in left_out.items() if t in dataset.truths]),
    ):
        if names:
            print(f'not measured, as the data {why}: {", ".join(names)}')
    guessed: Measured = {}
    if arguments.train:  # first: it is quick, and may not fit the data
        train = relabel(open_data(arguments.train, 500), classes)
        steps = measure_mean(measurable(tasks, train), train, dataset, guessed, protocol)
        for _ in tqdm(steps, MEAN, len(dataset), unit='frame'):
            pass
    measured = _measure(engine, dataset, protocol, 'evaluate')
    results = {MODEL: summarize(measured, tasks)}
    if guessed:
        results[MEAN] = summarize(guessed, tasks)
    differences: Differences = {}
    if other:
        compared = _measure(other, dataset, protocol, AGAINST)
        results[AGAINST] = summarize(compared, other.tasks)
        both = [name for name in measured if name in compared]
        differences = {
            name: paired_bootstrap(
                (tasks[name], other.tasks[name]),
                (measured[name], compared[name]),
                arguments.resamples,
                arguments.seed,
            )
            for name in tqdm(both, 'bootstrap', unit='task')
        }
    _print(results, differences, len(dataset))
    frames = each_frame(measured, tasks)
    if arguments.json:
        report = {
            **results,
            'difference': {
                t: {n: d._asdict() for n, d in f.items()} for t, f in differences.items()
            },
            'frames': [
                {'key': key, **{name: frames[name][index] for name in frames}}
                for index, key in enumerate(map(dataset.key, range(len(dataset))))
            ],
            'about': _about(arguments, dataset, protocol),
        }
        arguments.json.write_text(json.dumps(_strict(report), indent=2, allow_nan=False) + '\n')
    if arguments.record:
        recorded = {name: results[name] for name in (MODEL, MEAN) if name in results}
        rounded = {
            who: {t: {n: round(v, 4) for n, v in f.items()} for t, f in of.items()}
            for who, of in recorded.items()
        }
        config_file.record_metrics(config_file.resolve(arguments.checkpoint), rounded)
    if arguments.pictures:
        _write_sheets(engine, dataset, protocol, frames, arguments.pictures, arguments.worst)
    return 0


def _check(arguments: argparse.Namespace) -> None:
    """Refuse what would only fail after everything was measured; make the folders."""
    for name in ('resamples', 'worst'):
        if getattr(arguments, name) < 1:
            raise ValueError(f'--{name} must be at least 1, got {getattr(arguments, name)}')
    if arguments.pictures:
        arguments.pictures.mkdir(parents=True, exist_ok=True)
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)


def _measure(engine: Engine, dataset: Dataset, protocol: Protocol, title: str) -> Measured:
    measured: Measured = {}
    steps = measure(engine, dataset, measured, protocol)
    for _ in tqdm(steps, title, len(dataset), unit='frame'):
        pass
    return measured


def _print(
    results: Mapping[str, Mapping[str, Figures]], differences: Differences, frames: int
) -> None:
    for task, figures in results[MODEL].items():
        columns = [who for who, of in results.items() if task in of]
        compared = differences.get(task, {})
        head = [f'{task}, {frames} frames', *columns]
        rows = [
            [
                name,
                *(_number(results[who][task].get(name, math.nan)) for who in columns),
                *([_change(compared[name])] if name in compared else []),
            ]
            for name in figures
        ]
        if compared:
            head.append(f'{MODEL} - {AGAINST}')
        widest = [line + [''] * (len(head) - len(line)) for line in rows]
        print('\n' + '\n'.join(aligned([head, *widest])))


def _number(value: float) -> str:
    return '-' if math.isnan(value) else f'{value:.3f}'


def _change(difference: Difference) -> str:
    if math.isnan(difference.value):
        return '-'
    star = '*' if difference.is_clear else ' '
    value, low, high = difference
    return f'{value:+.3f} [{low:+.3f}, {high:+.3f}]{star}'


def _about(arguments: argparse.Namespace, dataset: Dataset, protocol: Protocol) -> dict[str, Any]:
    """Return what was measured on what, with which versions."""
    return {
        'checkpoint': arguments.checkpoint,
        'against': arguments.against,
        'run': {name: getattr(arguments, name) for name in RUN_OPTIONS},
        'bootstrap': {'resamples': arguments.resamples, 'seed': arguments.seed},
        'data': {
            'folder': dataset.name,
            'frames': len(dataset),
            'fingerprint': dataset.fingerprint(),
        },
        'protocol': {'name': arguments.protocol, **asdict(protocol)},
        'commit': commit(),
        'versions': versions(),
    }


def _strict(value: Any) -> Any:
    """Replace what JSON has no number for by null."""
    if isinstance(value, Mapping):
        return {name: _strict(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write_sheets(
    engine: Engine,
    dataset: Dataset,
    protocol: Protocol,
    frames: Mapping[str, list[Figures]],
    folder: Path,
    count: int,
) -> None:
    """Write DIR/<task>.png: the worst pictures of each task, the worst on top."""
    for name, figures in frames.items():
        task = engine.tasks[name]
        rows = []
        for index in worst(task, figures, count):
            sample = protocol.apply(dataset[index])
            rgb = to_rgb(sample)
            prediction = engine.predict([rgb], [name])[0][name]
            score = figures[index][task.headline]
            label = f'{dataset.key(index)}: {task.headline} {score:.3f}'
            rows.append(row(task, rgb, sample, prediction, label))
        if rows:
            cv2.imwrite(str(folder / f'{name}.png'), sheet(rows)[..., ::-1])


if __name__ == '__main__':
    raise SystemExit(main())
