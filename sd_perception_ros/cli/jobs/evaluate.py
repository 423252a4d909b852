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
from sd_perception_ros.cli.evaluate import RUN_OPTIONS
from sd_perception_ros.cli.evaluate_sheets import row, sheet
from sd_perception_ros.cli.tables import aligned
from sd_perception_ros.cli.versions import commit, versions
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

MODEL, MEAN, AGAINST = 'model', 'mean target', 'against'  # names of rows, and keys of the JSON
Differences = Mapping[str, Mapping[str, Difference]]


def run(arguments: argparse.Namespace) -> int:
    """Print a table for each task, and write figures and pictures if asked to."""
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
