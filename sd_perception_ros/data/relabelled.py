"""Labels of a data set, renumbered to the class ids of a model."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sd_perception_ros.data.dataset import Dataset, DatasetWrapper
from sd_perception_ros.types import Sample

UNKNOWN = 255


class RelabelledDataset(DatasetWrapper):
    """
    A data set with the class ids of another list of classes.

    :param classes: contains all classes of the data set; case, spaces and underscores of names are
        ignored.
    """

    def __init__(self, dataset: Dataset, classes: Sequence[str]) -> None:
        super().__init__(dataset)
        self.classes = tuple(classes)
        ids = {_normalized(name): number for number, name in enumerate(classes)}
        self._ids = torch.full((UNKNOWN + 1,), float(UNKNOWN))
        for number, name in enumerate(dataset.classes):
            self._ids[number] = ids[_normalized(name)]

    def __getitem__(self, index: int) -> Sample:
        """Return a frame as a batch of one."""
        sample = self.dataset[index]
        return {**sample, 'labels': self._ids[sample['labels'].long()]}


def relabel(dataset: Dataset, classes: Sequence[str]) -> Dataset:
    """Renumber labels to these classes; without all classes in common, return it unchanged."""
    same = dataset.classes == tuple(classes)
    if same or not dataset.classes or other_classes(dataset, classes):
        return dataset
    return RelabelledDataset(dataset, classes)


def other_classes(dataset: Dataset, classes: Sequence[str]) -> list[str]:
    """Return the classes of a data set that are not among `classes`."""
    names = {_normalized(name) for name in classes}
    return [name for name in dataset.classes if _normalized(name) not in names]


def _normalized(name: str) -> str:
    return name.strip().lower().replace('_', ' ')
