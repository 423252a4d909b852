"""How good an engine is on frames with ground truth, beside predictors that know nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
import torch

from sd_perception_ros.data.dataset import Dataset
from sd_perception_ros.engine import Engine
from sd_perception_ros.evaluation.protocols import Protocol
from sd_perception_ros.tasks.task import Task
from sd_perception_ros.types import Prediction, Sample

Measured = dict[str, list[Any]]
Figures = dict[str, float]
ANY = Protocol()


def to_rgb(sample: Sample) -> NDArray[np.uint8]:
    """Return the picture of a batch of one, (H, W, 3) uint8."""
    levels = ((sample['image'][0] + 1) / 2 * 255).round().byte()
    return levels.permute(1, 2, 0).contiguous().numpy()


def measurable(tasks: Mapping[str, Task], dataset: Dataset) -> dict[str, Task]:
    """
    Return the tasks whose truth a data set has, class ids only where they mean the same.

    :raises ValueError: there is none.
    """
    truths = set(dataset.truths)
    found = {
        name: task
        for name, task in tasks.items()
        if task.truth in truths
        and (
            not dataset.classes or dataset.classes == getattr(task, 'class_names', dataset.classes)
        )
    }
    if not found:
        wanted = sorted({task.truth for task in tasks.values()})
        raise ValueError(
            f'expected data with one of {wanted}, which the tasks {list(tasks)} are measured '
            f'against; {dataset.name} has {sorted(truths)}'
        )
    return found


def measure(
    engine: Engine, dataset: Dataset, measured: Measured, protocol: Protocol = ANY
) -> Iterator[int]:
    """
    Predict every frame and add each task's errors to `measured`; yields the frames done.

    :param measured: task name to one entry a frame, filled here; `summarize` turns it into
        figures. Tasks whose truth the data does not have are left out.
    """
    tasks = measurable(engine.tasks, dataset)
    for index in range(len(dataset)):
        sample = protocol.apply(dataset[index])
        add(measured, tasks, engine.predict([to_rgb(sample)], tasks)[0], sample)
        yield index + 1


def measure_mean(
    tasks: Mapping[str, Task],
    train: Dataset,
    dataset: Dataset,
    measured: Measured,
    protocol: Protocol = ANY,
) -> Iterator[int]:
    """Do as `measure` for a predictor that answers the mean target of `train` to every frame."""
    raw = mean_raw(tasks, train, protocol)
    guess = {name: tasks[name].decode(torch.from_numpy(mean)) for name, mean in raw.items()}
    for index in range(len(dataset)):
        sample = protocol.apply(dataset[index])
        for name, task in tasks.items():
            _check_size(name, raw[name].shape, task.target(sample)[0][0].shape)
        add(measured, tasks, guess, sample)
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


def summarize(measured: Measured, tasks: Mapping[str, Task]) -> dict[str, Figures]:
    """Return each task's figures."""
    return {name: tasks[name].summarize(errors) for name, errors in measured.items()}


def each_frame(measured: Measured, tasks: Mapping[str, Task]) -> dict[str, list[Figures]]:
    """Return each task's figures of every frame by itself."""
    return {
        name: [tasks[name].summarize([one]) for one in errors] for name, errors in measured.items()
    }


def worst(task: Task, frames: Sequence[Figures], count: int) -> list[int]:
    """
    Return the indices of the worst frames by the task's headline, the worst first.

    Frames of which the headline says nothing are left out.

    :param frames: figures of every frame, as `each_frame` gives them.
    """
    scores = np.array([figures.get(task.headline, np.nan) for figures in frames])
    order = np.argsort(scores if task.higher_is_better else -scores, kind='stable')
    return [int(index) for index in order if np.isfinite(scores[index])][:count]


def mean_raw(
    tasks: Mapping[str, Task], dataset: Dataset, protocol: Protocol = ANY
) -> dict[str, NDArray[np.float32]]:
    """
    Return the mean target of each task at each pixel: the best guess without looking.

    :returns: task name to (channels, H, W) raw output.
    :raises ValueError: frames of several sizes.
    """
    totals: dict[str, NDArray[np.float64]] = {}
    counts: dict[str, NDArray[np.float64]] = {}
    for index in range(len(dataset)):
        sample = protocol.apply(dataset[index])
        for name, task in tasks.items():
            target, valid = (tensor[0].numpy() for tensor in task.target(sample))
            known = valid & np.isfinite(target)
            total = totals.setdefault(name, np.zeros(target.shape))
            _check_size(name, total.shape, target.shape)
            total += np.where(known, target, 0)
            counts[name] = counts.get(name, np.zeros(target.shape)) + known
    return {
        name: (total / np.maximum(counts[name], 1)).astype(np.float32)
        for name, total in totals.items()
    }


def _check_size(task: str, mean: tuple[int, ...], target: tuple[int, ...]) -> None:
    if tuple(mean) != tuple(target):
        raise ValueError(
            f'the mean target of {task} is {mean[2]}x{mean[1]}, and a frame has one of '
            f'{target[2]}x{target[1]}; leave --train out where frames differ in size'
        )
