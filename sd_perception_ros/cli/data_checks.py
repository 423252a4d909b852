"""Checks of ground truth before a training: what it holds, not whether its files are whole."""

from __future__ import annotations

from collections.abc import Collection

from sd_perception_ros.data.dataset import Dataset
from sd_perception_ros.data.statistics import DataStatistics

CHECKED_FRAMES = 16  # evenly spaced


def print_notes(dataset: Dataset) -> None:
    """Print what was read otherwise than written in the files."""
    for note in dataset.notes():
        print(f'note: {note}')


def check_truths(dataset: Dataset, truths: Collection[str]) -> None:
    """
    Read some frames and check these ground truths; print in how many frames one is unknown.

    :raises ValueError: a ground truth is unknown in every frame read, or a mask of 0 and 1.
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
