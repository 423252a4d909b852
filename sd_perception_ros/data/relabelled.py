"""Class ids of a data set as another list of classes counts them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sd_perception_ros.data.dataset import Dataset, DatasetWrapper
from sd_perception_ros.types import Sample

UNKNOWN = 255


class RelabelledDataset(DatasetWrapper):
    """
    A set with the class ids of a list that holds all its classes, perhaps among others.

    :param classes: the list; names are equal where they differ in case, spaces and underscores.
    """

    def __init__(self, dataset: Dataset, classes: Sequence[str]) -> None:
        super().__init__(dataset)
        self.classes = tuple(classes)
        places = {_plain(name): place for place, name in enumerate(classes)}
        self._ids = torch.full((UNKNOWN + 1,), float(UNKNOWN))
        for number, name in enumerate(dataset.classes):
            self._ids[number] = places[_plain(name)]

    def __getitem__(self, index: int) -> Sample:
        """Return a frame as a batch of one."""
        sample = self.dataset[index]
        return {**sample, 'labels': self._ids[sample['labels'].long()]}


def relabel(dataset: Dataset, classes: Sequence[str]) -> Dataset:
    """Return a set with the ids of these classes, or itself where they are not the same things."""
    names = {_plain(name) for name in classes}
    same = dataset.classes == tuple(classes)
    if same or not dataset.classes or not names.issuperset(map(_plain, dataset.classes)):
        return dataset
    return RelabelledDataset(dataset, classes)


def _plain(name: str) -> str:
    return name.strip().lower().replace('_', ' ')
