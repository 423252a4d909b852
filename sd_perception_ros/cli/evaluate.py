"""Measure a checkpoint on frames with ground truth, beside a guess that never looks."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
import json
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
import torch
from tqdm import tqdm

from sd_perception_ros import checkpoint
from sd_perception_ros.config import EngineConfig
from sd_perception_ros.data.rooms import RoomsDataset
from sd_perception_ros.engine import Engine
from sd_perception_ros.evaluate import add, mean_raw, measure, Measured, summarize, to_rgb

EXAMPLE = """\
example:
  python -m sd_perception_ros evaluate --data data/rooms/heldout --train data/rooms/train

Depth is compared after each image's least-squares scale and shift, as affine-invariant depth is.
"""


def main(argv: list[str] | None = None) -> int:
    """Print one table, and write figures and pictures if asked to."""
    parser = argparse.ArgumentParser(
        prog='evaluate',
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('--checkpoint', default=EngineConfig.checkpoint, help='%(default)s')
    parser.add_argument('--data', type=Path, required=True, help='Frames to measure on')
    parser.add_argument('--train', type=Path, help='Frames whose mean target is the guess')
    parser.add_argument('--json', type=Path, help='File for the figures')
    parser.add_argument(
        '--record', action='store_true', help="Write the figures into the checkpoint's file, too"
    )
    parser.add_argument('--pictures', type=Path, help='File for a sheet: picture, truth, ours')
    arguments = parser.parse_args(argv)
    engine = Engine.load(arguments.checkpoint)
    print(engine.summary())
    dataset = RoomsDataset(arguments.data)
    measured: Measured = {}
    for _ in tqdm(measure(engine, dataset, measured), 'evaluate', len(dataset), unit='frame'):
        pass
    results = {'model': summarize(measured, engine.tasks)}
    if arguments.train:
        results['mean target'] = _guess(engine, dataset, RoomsDataset(arguments.train, 500))
    _print(results, len(dataset))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + '\n')
    if arguments.record:
        rounded = {
            row: {t: {n: round(v, 4) for n, v in f.items()} for t, f in tasks.items()}
            for row, tasks in results.items()
        }
        checkpoint.record_metrics(checkpoint.find(arguments.checkpoint), rounded)
    if arguments.pictures:
        cv2.imwrite(str(arguments.pictures), _sheet(engine, dataset)[..., ::-1])
    return 0


def _guess(
    engine: Engine, dataset: RoomsDataset, train: RoomsDataset
) -> dict[str, dict[str, float]]:
    raw = mean_raw(engine.tasks, train)
    guess = {name: engine.tasks[name].decode(torch.from_numpy(r)) for name, r in raw.items()}
    measured: Measured = {}
    for index in range(len(dataset)):
        add(measured, engine.tasks, guess, dataset[index])
    return summarize(measured, engine.tasks)


def _print(results: Mapping[str, Mapping[str, Mapping[str, float]]], frames: int) -> None:
    for task in next(iter(results.values())):
        print(f'\n{task}, {frames} frames')
        for row, tasks in results.items():
            figures = '  '.join(f'{name} {value:.3f}' for name, value in tasks[task].items())
            print(f'  {row:12} {figures}')


def _sheet(engine: Engine, dataset: RoomsDataset, rows: int = 8) -> NDArray[np.uint8]:
    """Return evenly chosen frames, one a row: picture, then truth and prediction of each task."""
    sheet = []
    for index in np.linspace(0, len(dataset) - 1, min(rows, len(dataset))).astype(int):
        sample = dataset[int(index)]
        picture = to_rgb(sample)
        row = [picture]
        for name, prediction in engine.predict([picture])[0].items():
            task = engine.tasks[name]
            target, valid = task.target(sample)
            truth = task.colorize(task.decode(target[0]))
            if task.dense:
                truth = np.where(valid[0, 0, :, :, None].numpy(), truth, 0).astype(np.uint8)
            row += [truth]
            row += [task.colorize(prediction)]
        sheet.append(np.hstack(row))
    return np.vstack(sheet)


if __name__ == '__main__':
    raise SystemExit(main())
