"""Measure an engine on frames with ground truth, and a baseline that ignores its input."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
import torch

from sd_perception_ros.data.dataset import Dataset
from sd_perception_ros.data.relabelled import other_classes
from sd_perception_ros.drawing import true_poses
from sd_perception_ros.engine import Engine
from sd_perception_ros.evaluation.protocols import Protocol
from sd_perception_ros.people.boxes import Box, boxes_of_poses
from sd_perception_ros.tasks.task import Task
from sd_perception_ros.types import Prediction, Sample

Measured = dict[str, list[Any]]
Figures = dict[str, float]
ANY = Protocol()


def to_rgb(sample: Sample) -> NDArray[np.uint8]:
    """Return the image of a batch of one, (H, W, 3) uint8."""
    levels = ((sample['image'][0] + 1) / 2 * 255).round().byte()
    return levels.permute(1, 2, 0).contiguous().numpy()


def true_boxes(sample: Sample) -> list[Box]:
    """
    Return the boxes around the annotated people, for a human_pose that needs boxes.

    COCO calls these "ground truth boxes"; the results are better than with a detector.
    """
    if 'bodies' in sample:
        rows = sample['bodies'][0].tolist()
        return [Box(*row[:4]) for row in rows if row[2] > 0 and row[3] > 0 and not row[5]]
    if 'joints' not in sample:
        return []
    height, width = sample['image'].shape[-2:]
    return boxes_of_poses(true_poses(sample['joints'][0].numpy(), height, width))


def measurable(tasks: Mapping[str, Task], dataset: Dataset) -> dict[str, Task]:
    """
    Return the tasks for which the data has ground truth and classes.

    :raises ValueError: there is none.
    """
    truths = set(dataset.truths)
    result = {
        name: task
        for name, task in tasks.items()
        if task.truth in truths
        and (
            not dataset.classes or dataset.classes == getattr(task, 'class_names', dataset.classes)
        )
    }
    if not result:
        for name, task in tasks.items():
            if task.truth in truths:
                raise ValueError(class_mismatch(name, task, dataset))
        wanted = sorted({task.truth for task in tasks.values()})
        raise ValueError(
            f'expected data with ground truth for {list(tasks)} (one of {wanted}); {dataset.name} '
            f'has {sorted(truths)}'
        )
    return result


def class_mismatch(name: str, task: Task, dataset: Dataset) -> str:
    """Return which classes of the data a task lacks, in a sentence."""
    classes: Sequence[str] = getattr(task, 'class_names', ())
    others = other_classes(dataset, classes)
    return (
        f'expected data with the classes of {name} ({", ".join(classes)}); {dataset.name} has '
        f'{len(others)} others: {", ".join(others[:8])}{", ..." if others[8:] else ""}'
    )


def measure(
    engine: Engine, dataset: Dataset, measured: Measured, protocol: Protocol = ANY
) -> Iterator[int]:
    """
    Predict every frame and add the errors of each task to `measured`; yields the frames done.

    :param measured: filled here: {task: one entry per frame}, the input of `summarize`.
        Tasks without ground truth in the data are skipped.
    """
    tasks = measurable(engine.tasks, dataset)
    for index in range(len(dataset)):
        sample = protocol.apply(dataset[index])
        boxes = [true_boxes(sample)] if engine.needs_boxes else None
        # Otherwise most frames would be torch's, not the runtime's that is evaluated.
        engine.wait_for_engines()
        add(measured, tasks, engine.predict([to_rgb(sample)], tasks, boxes)[0], sample)
        yield index + 1


def measure_mean(
    tasks: Mapping[str, Task],
    train: Dataset,
    dataset: Dataset,
    measured: Measured,
    protocol: Protocol = ANY,
) -> Iterator[int]:
    """Measure the mean target of `train` as the prediction of every frame; see `measure`."""
    raw = mean_raw(tasks, train, protocol)
    baseline = {name: tasks[name].decode(torch.from_numpy(mean)) for name, mean in raw.items()}
    for index in range(len(dataset)):
        sample = protocol.apply(dataset[index])
        for name, task in tasks.items():
            _check_size(name, raw[name].shape, task.target(sample)[0][0].shape)
        add(measured, tasks, baseline, sample)
        yield index + 1


def add(
    measured: Measured,
    tasks: Mapping[str, Task],
    predictions: Mapping[str, Prediction],
    sample: Sample,
) -> None:
    """Add the errors of the predictions of one frame."""
    for name, prediction in predictions.items():
        measured.setdefault(name, []).append(tasks[name].measure(prediction, sample))


def summarize(measured: Measured, tasks: Mapping[str, Task]) -> dict[str, Figures]:
    """Return the metrics of each task."""
    return {name: tasks[name].summarize(errors) for name, errors in measured.items()}


def each_frame(measured: Measured, tasks: Mapping[str, Task]) -> dict[str, list[Figures]]:
    """Return the metrics of each task for every single frame."""
    return {
        name: [tasks[name].summarize([error]) for error in errors]
        for name, errors in measured.items()
    }


def worst(task: Task, frames: Sequence[Figures], count: int) -> list[int]:
    """
    Return the indices of the worst frames by the headline metric of a task, the worst first.

    Frames without that metric are left out.

    :param frames: metrics of every frame, from `each_frame`.
    """
    scores = np.array([figures.get(task.headline, np.nan) for figures in frames])
    order = np.argsort(scores if task.higher_is_better else -scores, kind='stable')
    return [int(index) for index in order if np.isfinite(scores[index])][:count]


def mean_raw(
    tasks: Mapping[str, Task], dataset: Dataset, protocol: Protocol = ANY
) -> dict[str, NDArray[np.float32]]:
    """
    Return the mean target of each task at each pixel: a baseline that ignores its input.

    :returns: task name to (channels, H, W) raw output.
    :raises ValueError: the frames differ in size.
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
            f'{target[2]}x{target[1]}; omit --train for frames of several sizes'
        )
