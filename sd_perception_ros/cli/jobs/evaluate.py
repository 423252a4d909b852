"""Evaluate a checkpoint on frames with ground truth, beside a constant baseline."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict
import json
import math
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sd_perception_ros.checkpoint import config_file
from sd_perception_ros.cli.arguments import CROP_OPTIONS, RUN_OPTIONS
from sd_perception_ros.cli.contact_sheet import stack, write_png
from sd_perception_ros.cli.data_checks import print_notes
from sd_perception_ros.cli.evaluate_sheets import row
from sd_perception_ros.cli.tables import aligned
from sd_perception_ros.cli.versions import commit, versions
from sd_perception_ros.data.dataset import Dataset
from sd_perception_ros.data.opening import open_data
from sd_perception_ros.data.relabelled import relabel
from sd_perception_ros.engine import Engine
from sd_perception_ros.evaluation.bootstrap import Difference, paired_bootstrap
from sd_perception_ros.evaluation.evaluate import (
    class_mismatch,
    each_frame,
    Figures,
    measurable,
    measure,
    measure_mean,
    Measured,
    summarize,
    to_rgb,
    true_boxes,
    worst,
)
from sd_perception_ros.evaluation.protocols import Protocol, PROTOCOLS
from sd_perception_ros.people.options import TopDownOptions
from sd_perception_ros.tasks.task import Task

MODEL, MEAN, AGAINST = 'model', 'mean target', 'against'  # columns, and keys of the JSON
BASELINE_FRAMES = 500  # frames of each training set; more hardly change the mean target
Differences = Mapping[str, Mapping[str, Difference]]


def run(arguments: argparse.Namespace) -> int:
    """Print a table for each task; write metrics and sheets where an option requests them."""
    protocol = PROTOCOLS[arguments.protocol]
    options: dict[str, Any] = {name: getattr(arguments, name) for name in RUN_OPTIONS}
    crops = {name: getattr(arguments, name) for name in CROP_OPTIONS}
    options['top_down'] = TopDownOptions(**crops)
    engine = Engine.load(arguments.checkpoint, **options)
    other = Engine.load(arguments.against, **options) if arguments.against else None
    print(engine.summary())
    dataset = _open(arguments.data, engine, measuring=True)
    dataset.check()
    print_notes(dataset)
    tasks = measurable(engine.tasks, dataset)
    _print_left_out(engine, tasks, dataset)
    results: dict[str, dict[str, Figures]] = {}
    if arguments.train:  # first: it is fast, and may fail for this data
        train = _open(arguments.train, engine, limit=BASELINE_FRAMES)
        results[MEAN] = _measure_baseline(tasks, train, dataset, protocol)
    measured = _measure(engine, dataset, protocol, 'evaluate')
    results = {MODEL: summarize(measured, tasks), **results}
    differences: Differences = {}
    if other:
        compared = _measure(other, dataset, protocol, AGAINST)
        results[AGAINST] = summarize(compared, other.tasks)
        differences = _compare(engine, other, measured, compared, arguments)
    _print(results, differences, len(dataset))
    frames = each_frame(measured, tasks)
    if arguments.json:
        _write_json(arguments, dataset, protocol, results, differences, frames)
    if arguments.record:
        _record(arguments.checkpoint, results)
    if arguments.pictures:
        _write_sheets(engine, dataset, protocol, frames, arguments.pictures, arguments.worst)
    return 0


def _open(
    names: Sequence[str], engine: Engine, limit: int = 0, measuring: bool = False
) -> Dataset:
    """Open data, with the class ids of the model if the classes are the same."""
    classes = next((t.class_names for t in engine.tasks.values() if hasattr(t, 'class_names')), ())
    return relabel(open_data(names, limit, measuring=measuring), classes)


def _print_left_out(engine: Engine, tasks: Mapping[str, Task], dataset: Dataset) -> None:
    left_out = {name: task.truth for name, task in engine.tasks.items() if name not in tasks}
    without_truth = [name for name, truth in left_out.items() if truth not in dataset.truths]
    if without_truth:
        print(f'not measured, the data has no ground truth for: {", ".join(without_truth)}')
    for name in left_out.keys() - set(without_truth):
        print(f'{name} is not measured: {class_mismatch(name, engine.tasks[name], dataset)}')


def _measure(engine: Engine, dataset: Dataset, protocol: Protocol, title: str) -> Measured:
    measured: Measured = {}
    steps = measure(engine, dataset, measured, protocol)
    for _ in tqdm(steps, title, len(dataset), unit='frame'):
        pass
    return measured


def _measure_baseline(
    tasks: Mapping[str, Task], train: Dataset, dataset: Dataset, protocol: Protocol
) -> dict[str, Figures]:
    """Measure the mean target of the training data as the prediction for every frame."""
    measured: Measured = {}
    steps = measure_mean(measurable(tasks, train), train, dataset, measured, protocol)
    for _ in tqdm(steps, MEAN, len(dataset), unit='frame'):
        pass
    return summarize(measured, tasks)


def _compare(
    engine: Engine,
    other: Engine,
    measured: Measured,
    compared: Measured,
    arguments: argparse.Namespace,
) -> Differences:
    """Return the difference of each metric of the tasks that both checkpoints have."""
    names = [name for name in measured if name in compared]
    return {
        name: paired_bootstrap(
            (engine.tasks[name], other.tasks[name]),
            (measured[name], compared[name]),
            arguments.resamples,
            arguments.seed,
        )
        for name in tqdm(names, 'bootstrap', unit='task')
    }


def _write_json(
    arguments: argparse.Namespace,
    dataset: Dataset,
    protocol: Protocol,
    results: Mapping[str, Mapping[str, Figures]],
    differences: Differences,
    frames: Mapping[str, list[Figures]],
) -> None:
    """Write the metrics of the data set and of each frame, and the options of the evaluation."""
    report = {
        **results,
        'difference': {
            task: {name: difference._asdict() for name, difference in by_metric.items()}
            for task, by_metric in differences.items()
        },
        'frames': [
            {'key': dataset.key(index), **{task: frames[task][index] for task in frames}}
            for index in range(len(dataset))
        ],
        'about': _about(arguments, dataset, protocol),
    }
    text = json.dumps(_without_nan(report), indent=2, allow_nan=False)
    arguments.json.write_text(text + '\n')


def _record(checkpoint: str, results: Mapping[str, Mapping[str, Figures]]) -> None:
    """Write the metrics of model and baseline into the checkpoint.yaml."""
    rounded = {
        predictor: {
            task: {name: round(value, 4) for name, value in metrics.items()}
            for task, metrics in results[predictor].items()
        }
        for predictor in (MODEL, MEAN)
        if predictor in results
    }
    config_file.record_metrics(config_file.resolve(checkpoint), rounded)


def _print(
    results: Mapping[str, Mapping[str, Figures]], differences: Differences, frames: int
) -> None:
    """Print a table for each task: a row for each metric, a column for each predictor."""
    for task, metrics in results[MODEL].items():
        columns = [predictor for predictor, by_task in results.items() if task in by_task]
        compared = differences.get(task, {})
        head = [f'{task}, {frames} frames', *columns]
        if compared:
            head.append(f'{MODEL} - {AGAINST}')
        rows = [head]
        for name in metrics:
            row = [name, *(_number(results[c][task].get(name, math.nan)) for c in columns)]
            if compared:
                row.append(_change(compared[name]) if name in compared else '')
            rows.append(row)
        print('\n' + '\n'.join(aligned(rows)))


def _number(value: float) -> str:
    return '-' if math.isnan(value) else f'{value:.3f}'


def _change(difference: Difference) -> str:
    if math.isnan(difference.value):
        return '-'
    star = '*' if difference.is_clear else ' '
    value, low, high = difference
    return f'{value:+.3f} [{low:+.3f}, {high:+.3f}]{star}'


def _about(arguments: argparse.Namespace, dataset: Dataset, protocol: Protocol) -> dict[str, Any]:
    """Return options, data, commit and versions of this measurement."""
    return {
        'checkpoint': arguments.checkpoint,
        'against': arguments.against,
        'run': {n: getattr(arguments, n) for n in (*RUN_OPTIONS, *CROP_OPTIONS)},
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


def _without_nan(value: Any) -> Any:
    """Replace NaN and infinity, which JSON does not have, by null."""
    if isinstance(value, Mapping):
        return {name: _without_nan(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write_sheets(
    engine: Engine,
    dataset: Dataset,
    protocol: Protocol,
    frames: Mapping[str, list[Figures]],
    folder: Path,
    count: int,
) -> None:
    """Write DIR/<task>.png: the worst images of each task, worst first."""
    for name, figures in frames.items():
        task = engine.tasks[name]
        rows = []
        for index in worst(task, figures, count):
            sample = protocol.apply(dataset[index])
            rgb = to_rgb(sample)
            boxes = [true_boxes(sample)] if engine.needs_boxes else None
            prediction = engine.predict([rgb], [name], boxes)[0][name]
            score = figures[index][task.headline]
            label = f'{dataset.key(index)}: {task.headline} {score:.3f}'
            rows.append(row(task, rgb, sample, prediction, label))
        if rows:
            write_png(folder / f'{name}.png', stack(rows))
