"""Checks of the values of ground truth before a training."""

from __future__ import annotations

from collections.abc import Collection

from sd_perception_ros.data.dataset import Dataset
from sd_perception_ros.data.statistics import DataStatistics

CHECKED_FRAMES = 16  # evenly spaced


def print_notes(dataset: Dataset) -> None:
    """Print notes about values that were changed while reading."""
    for note in dataset.notes():
        print(f'note: {note}')


def check_truths(dataset: Dataset, truths: Collection[str]) -> None:
    """
    Check ground truth in some frames; print the number of frames in which it is unknown.

    :raises ValueError: a ground truth is unknown in all of these frames, or a mask of 0 and 1.
    """
    statistics = DataStatistics(dataset.classes)
    for index in dataset.evenly_spaced(CHECKED_FRAMES):
        statistics.add(dataset[index])
    for name, fault in statistics.faults().items():
        if name in truths:
            raise ValueError(f'{dataset.name}: {fault}')
    for name, note in statistics.unknown_frames().items():
        if name in truths:
            print(f'note: {note}')
