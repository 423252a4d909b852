"""Sets made of sets: several of them mixed by weight, and one brought to a single size."""

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
    Several sets as one: drawn by weight, counted one after the other.

    Frames have what all sets have; class ids only where they mean the same in all.

    :param weights: how many of the pictures that are drawn come from each set, as shares.
    """

    def __init__(self, sets: Sequence[Dataset], weights: Sequence[float]) -> None:
        self.sets = tuple(sets)
        self.name = ' + '.join(one.name for one in sets)
        self.shares = np.cumsum(weights) / np.sum(weights)
        self.weights = list(weights)
        self.ends = list(accumulate(len(one) for one in sets))
        known = [set(one[0]) for one in sets]
        if len({one.classes for one in sets}) > 1:
            known.append(known[0] - {'labels'})
        self._names = set.intersection(*known)
        self.truths = tuple(t for t in sets[0].truths if not self.sets_without(t))
        self.classes = sets[0].classes if 'labels' in self.truths else ()

    def __len__(self) -> int:
        """Return the number of frames of all sets."""
        return self.ends[-1]

    def __getitem__(self, index: int) -> Sample:
        """Return a frame as a batch of one."""
        one, place = self._place(index)
        return {name: value for name, value in one[place].items() if name in self._names}

    def image(self, index: int) -> Tensor:
        """Return the picture alone, (1, 3, H, W) in -1..1."""
        one, place = self._place(index)
        return one.image(place)

    def key(self, index: int) -> str:
        """Return a frame's name."""
        one, place = self._place(index)
        return f'{one.name} {one.key(place)}'

    def draw(self, rng: np.random.Generator) -> int:
        """Return the index of a random frame: of a set by its weight, of it any frame."""
        chosen = min(int(np.searchsorted(self.shares, rng.random(), 'right')), len(self.sets) - 1)
        return self.ends[chosen] - len(self.sets[chosen]) + self.sets[chosen].draw(rng)

    def evenly_spaced(self, count: int) -> list[int]:
        """Return the indices of frames of every set, at most `count` of each."""
        starts = [end - len(one) for one, end in zip(self.sets, self.ends, strict=True)]
        return [
            start + i
            for one, start in zip(self.sets, starts, strict=True)
            for i in one.evenly_spaced(count)
        ]

    def sets_without(self, truth: str) -> list[str]:
        """Return the names of the sets in here that do not have a truth."""
        lacking = [name for one in self.sets for name in one.sets_without(truth)]
        if not lacking and truth not in self._names:
            return [self.name]  # class ids that mean different things
        return lacking

    def fingerprint(self) -> str:
        """Return a short name of these very sets in this mixture."""
        parts = zip(self.sets, self.weights, strict=True)
        words = '\n'.join(f'{one.fingerprint()} {weight:g}' for one, weight in parts)
        return hashlib.sha256(words.encode()).hexdigest()[:16]

    def check(self) -> None:
        """Look at every file of every set."""
        for one in self.sets:
            one.check()

    def recipe(self) -> dict[str, Any]:
        """Return how the frames of each set were made."""
        parts = enumerate(zip(self.sets, self.weights, strict=True), 1)
        # Where their folders lay is the business of that machine.
        return {
            f'{number}: {Path(one.name).name}': {'weight': weight, **one.recipe()}
            for number, (one, weight) in parts
        }

    def forget(self) -> None:
        """Give memory back that holds decoded frames."""
        for one in self.sets:
            one.forget()

    def _place(self, index: int) -> tuple[Dataset, int]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = bisect_right(self.ends, index)
        return self.sets[number], index - self.ends[number] + len(self.sets[number])


class ResizedDataset(DatasetWrapper):
    """
    A set whose pictures all have one size: scaled until they cover it, their middle cut out.

    :param size: (height, width), pixels.
    """

    def __init__(self, dataset: Dataset, size: tuple[int, int]) -> None:
        super().__init__(dataset)
        self.size = size

    def __getitem__(self, index: int) -> Sample:
        """Return a frame as a batch of one."""
        return center_crop(self.dataset[index], self.size)

    def image(self, index: int) -> Tensor:
        """Return the picture alone, (1, 3, H, W) in -1..1."""
        return center_crop({'image': self.dataset.image(index)}, self.size)['image']

    def fingerprint(self) -> str:
        """Return a short name of this very set at this size."""
        words = f'{self.dataset.fingerprint()} {self.size}'
        return hashlib.sha256(words.encode()).hexdigest()[:16]
