"""How good an engine is on frames with ground truth, beside predictors that know nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from sd_perception_ros.data.rooms import RoomsDataset
from sd_perception_ros.engine import Engine
from sd_perception_ros.tasks.task import Task
from sd_perception_ros.types import Prediction, Sample

Measured = dict[str, list[NDArray[np.float32]]]


def to_rgb(sample: Sample) -> NDArray[np.uint8]:
    """Return the picture of a batch of one, (H, W, 3) uint8."""
    levels = ((sample['image'][0] + 1) / 2 * 255).round().byte()
    return levels.permute(1, 2, 0).contiguous().numpy()


def measure(engine: Engine, dataset: RoomsDataset, measured: Measured) -> Iterator[int]:
    """
    Predict every frame and add each task's errors to `measured`; yields the frames done.

    :param measured: task name to errors, filled here; `summarize` turns it into figures.
    """
    for index in range(len(dataset)):
        sample = dataset[index]
        predictions = engine.predict([to_rgb(sample)])[0]
        add(measured, engine.tasks, predictions, sample)
        yield index + 1


def add(
    measured: Measured,
    tasks: Mapping[str, Task],
    predictions: Mapping[str, Prediction],
    sample: Sample,
) -> None:
    """Add the errors of one frame's predictions."""
    for name, prediction in predictions.items():
        measured.setdefault(name, []).append(tasks[name].measure(prediction, sample))


def summarize(measured: Measured, tasks: Mapping[str, Task]) -> dict[str, dict[str, float]]:
    """Return each task's figures."""
    return {name: tasks[name].summarize(errors) for name, errors in measured.items()}


def mean_raw(tasks: Mapping[str, Task], dataset: RoomsDataset) -> dict[str, NDArray[np.float32]]:
    """
    Return the mean target of each task at each pixel: the best guess without looking.

    :returns: task name to (channels, H, W) raw output.
    """
    totals: dict[str, NDArray[np.float64]] = {}
    counts: dict[str, NDArray[np.float64]] = {}
    for index in range(len(dataset)):
        sample = dataset[index]
        for name, task in tasks.items():
            target, valid = (tensor[0].numpy() for tensor in task.target(sample))
            known = valid & np.isfinite(target)
            totals[name] = totals.get(name, np.zeros(target.shape)) + np.where(known, target, 0)
            counts[name] = counts.get(name, np.zeros(target.shape)) + known
    return {
        name: (total / np.maximum(counts[name], 1)).astype(np.float32)
        for name, total in totals.items()
    }
