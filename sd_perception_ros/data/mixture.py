"""Data sets made of others: a weighted mixture, and images resized to one size."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
import hashlib
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from sd_perception_ros.data.dataset import Dataset, DatasetWrapper
from sd_perception_ros.data.windows import center_crop
from sd_perception_ros.types import Sample


class Mixture(Dataset):
    """
    Several data sets as one: indices are concatenated, random frames are drawn by weight.

    Frames have the ground truth that all data sets have; labels only if all have the same classes.

    :param weights: relative frequency of each data set among random frames.
    """

    def __init__(self, sets: Sequence[Dataset], weights: Sequence[float]) -> None:
        self.sets = tuple(sets)
        self.name = ' + '.join(dataset.name for dataset in sets)
        self.shares = np.cumsum(weights) / np.sum(weights)
        self.weights = list(weights)
        self.ends = list(accumulate(len(dataset) for dataset in sets))
        names = [set(dataset[0]) for dataset in sets]
        if len({dataset.classes for dataset in sets}) > 1:
            names.append(names[0] - {'labels'})
        self._names = set.intersection(*names)
        self.truths = tuple(t for t in sets[0].truths if not self.sets_without(t))
        self.classes = sets[0].classes if 'labels' in self.truths else ()

    def __len__(self) -> int:
        """Return the number of frames of all data sets."""
        return self.ends[-1]

    def __getitem__(self, index: int) -> Sample:
        """Return a frame as a batch of one."""
        dataset, frame = self._locate(index)
        return {name: value for name, value in dataset[frame].items() if name in self._names}

    def image(self, index: int) -> Tensor:
        """Return only the image, (1, 3, H, W) in -1..1."""
        dataset, frame = self._locate(index)
        return dataset.image(frame)

    def key(self, index: int) -> str:
        """Return the name of a frame."""
        dataset, frame = self._locate(index)
        return f'{dataset.name} {dataset.key(frame)}'

    def draw(self, rng: np.random.Generator) -> int:
        """Return the index of a random frame of a data set, which is drawn by weight."""
        chosen = min(int(np.searchsorted(self.shares, rng.random(), 'right')), len(self.sets) - 1)
        return self.ends[chosen] - len(self.sets[chosen]) + self.sets[chosen].draw(rng)

    def evenly_spaced(self, count: int) -> list[int]:
        """Return the indices of at most `count` evenly spaced frames of each data set."""
        starts = [end - len(dataset) for dataset, end in zip(self.sets, self.ends, strict=True)]
        return [
            start + i
            for dataset, start in zip(self.sets, starts, strict=True)
            for i in dataset.evenly_spaced(count)
        ]

    def sets_without(self, truth: str) -> list[str]:
        """Return the names of the data sets without this ground truth."""
        names = [name for dataset in self.sets for name in dataset.sets_without(truth)]
        if not names and truth not in self._names:
            return [self.name]  # labels with different classes
        return names

    def fingerprint(self) -> str:
        """Return a short hash of the data sets and their weights."""
        weighted = zip(self.sets, self.weights, strict=True)
        text = '\n'.join(f'{dataset.fingerprint()} {weight:g}' for dataset, weight in weighted)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def check(self) -> None:
        """Check every file of every data set."""
        for dataset in self.sets:
            dataset.check()

    def recipe(self) -> dict[str, Any]:
        """Return how the frames of each data set were rendered."""
        weighted = enumerate(zip(self.sets, self.weights, strict=True), 1)
        # Without the folder, which exists on this machine only.
        return {
            f'{number}: {Path(dataset.name).name}': {'weight': weight, **dataset.recipe()}
            for number, (dataset, weight) in weighted
        }

    def notes(self) -> list[str]:
        """Return notes about values that were changed while reading each data set."""
        return [note for dataset in self.sets for note in dataset.notes()]

    def free_memory(self) -> None:
        """Drop cached frames."""
        for dataset in self.sets:
            dataset.free_memory()

    def _locate(self, index: int) -> tuple[Dataset, int]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = bisect_right(self.ends, index)
        return self.sets[number], index - self.ends[number] + len(self.sets[number])


class ResizedDataset(DatasetWrapper):
    """
    Images of one size: resized to cover it, then cropped to the centre.

    :param size: (height, width), pixels.
    """

    def __init__(self, dataset: Dataset, size: tuple[int, int]) -> None:
        super().__init__(dataset)
        self.size = size

    def __getitem__(self, index: int) -> Sample:
        """Return a frame as a batch of one."""
        return center_crop(self.dataset[index], self.size)

    def image(self, index: int) -> Tensor:
        """Return only the image, (1, 3, H, W) in -1..1."""
        return center_crop({'image': self.dataset.image(index)}, self.size)['image']

    def fingerprint(self) -> str:
        """Return a short hash of the data set and the size."""
        text = f'{self.dataset.fingerprint()} {self.size}'
        return hashlib.sha256(text.encode()).hexdigest()[:16]
