"""The interface of data sets: images of any size with ground truth."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
import hashlib
import os
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray
import torch
from torch import Tensor

from sd_perception_ros.data.files import check_complete
from sd_perception_ros.data.samples import collate, OF_PEOPLE, size_mismatch, to_tensor
from sd_perception_ros.paths import printable
from sd_perception_ros.types import Sample

# Result of `read`: image (H, W, 3) uint8, depth_m (H, W) float32, normals (H, W, 3) float32,
# labels (H, W) uint8, foreground and matte (H, W) float32, joints (P, 17, 3) and bodies (Q, 6)
# float32.
Arrays = Mapping[str, NDArray[Any]]
MAX_MEMORY_PERCENT = 60  # fraction of the memory in use above which no more frames are cached


class FrameFiles(NamedTuple):
    """
    The files of one frame: an image and its ground truth.

    :ivar key: name of the frame, for messages.
    :ivar files: files by content, such as `depth_m`; there is always `image`.
    """

    key: str
    files: dict[str, Path]


class Dataset(ABC):
    """
    Images with ground truth, in the conventions of `Sample`.

    :ivar name: for messages, such as 'hypersim:data/hypersim'.
    :ivar truths: names of the ground truth that every frame has, such as 'depth_m'.
    :ivar classes: class names of the ids in `labels`; empty if unknown.
    :ivar uniform: all frames have one size and the same number of rows for people.
    """

    name: str
    truths: tuple[str, ...]
    classes: tuple[str, ...] = ()
    uniform: bool = False

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of frames."""

    @abstractmethod
    def __getitem__(self, index: int) -> Sample:
        """Return a frame as a batch of one."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Return a short hash of the names of all frames and the sizes of their image files."""

    @abstractmethod
    def key(self, index: int) -> str:
        """Return the name of a frame."""

    @abstractmethod
    def check(self) -> None:
        """
        Check the start and end of every file, which finds broken files before a training.

        :raises OSError: a file is missing, empty or truncated; the message names it.
        """

    def free_memory(self) -> None:  # noqa: B027 (most sets cache nothing)
        """Drop cached frames."""

    def image(self, index: int) -> Tensor:
        """Return only the image, (1, 3, H, W) in -1..1."""
        return self[index]['image']

    def images(self, indices: Sequence[int]) -> Tensor:
        """
        Return only the images of frames of one size, (B, 3, H, W) in -1..1.

        :raises ValueError: the frames differ in size.
        """
        images = [self.image(index) for index in indices]
        for index, image in zip(indices, images, strict=True):
            if image.shape != images[0].shape:
                sizes = images[0].shape[-2:], image.shape[-2:]
                raise ValueError(size_mismatch(self.key(index), *sizes))
        return torch.cat(images)

    def batch(self, indices: Sequence[int]) -> Sample:
        """Return several frames of one size as a batch."""
        return collate([self[index] for index in indices])

    def draw(self, rng: np.random.Generator) -> int:
        """Return the index of a random frame."""
        return int(rng.integers(len(self)))

    def evenly_spaced(self, count: int) -> list[int]:
        """Return the indices of at most `count` evenly spaced frames."""
        return [int(i) for i in np.linspace(0, len(self) - 1, min(count, len(self)))]

    def sets_without(self, truth: str) -> list[str]:
        """Return the names of the data sets without this ground truth."""
        return [] if truth in self.truths else [self.name]

    def recipe(self) -> dict[str, Any]:
        """Return how the frames were rendered, if known."""
        return {}

    def notes(self) -> list[str]:
        """Return notes about values that were changed while reading, a sentence each."""
        return []


class DatasetWrapper(Dataset):
    """Base of data sets that modify the frames of another data set."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.name = dataset.name
        self.truths = dataset.truths
        self.classes = dataset.classes
        self.uniform = dataset.uniform

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        """Return a frame as a batch of one."""
        return self.dataset[index]

    def key(self, index: int) -> str:
        """Return the name of a frame."""
        return self.dataset.key(index)

    def draw(self, rng: np.random.Generator) -> int:
        """Return the index of a random frame."""
        return self.dataset.draw(rng)

    def evenly_spaced(self, count: int) -> list[int]:
        """Return the indices of at most `count` evenly spaced frames of each data set."""
        return self.dataset.evenly_spaced(count)

    def sets_without(self, truth: str) -> list[str]:
        """Return the names of the data sets without this ground truth."""
        return self.dataset.sets_without(truth)

    def fingerprint(self) -> str:
        """Return a short hash of the data set."""
        return self.dataset.fingerprint()

    def check(self) -> None:
        """Check every file."""
        self.dataset.check()

    def recipe(self) -> dict[str, Any]:
        """Return how the frames were rendered."""
        return self.dataset.recipe()

    def notes(self) -> list[str]:
        """Return notes about values that were changed while reading."""
        return self.dataset.notes()

    def free_memory(self) -> None:
        """Drop cached frames."""
        self.dataset.free_memory()


class FolderDataset(Dataset):
    """
    A data set in a folder, in the layout of its authors.

    :cvar kind: name for --data.
    :cvar layout: description of the files of a frame, for messages.
    :cvar signs: glob patterns of files that identify a folder of this kind.
    :cvar splits: names of the splits; the first is the default.
    :cvar keeps: decoded frames are small enough to be cached in memory.
    :param limit: use only the first frames; 0: all.
    :param keep: cache decoded frames in memory, if `keeps`.
    :param split: one of `splits`.
    :param measuring: include frames and ground truth for evaluation only.
    :raises FileNotFoundError: the folder holds no frame in this layout.
    :raises ValueError: no such split.
    """

    kind: ClassVar[str]
    layout: ClassVar[str]
    signs: ClassVar[tuple[str, ...]]
    splits: ClassVar[tuple[str, ...]] = ('all',)
    keeps: ClassVar[bool] = False

    def __init__(
        self,
        folder: Path,
        limit: int = 0,
        keep: bool = False,
        split: str = '',
        measuring: bool = False,
    ) -> None:
        self.folder = folder
        self.measuring = measuring
        self.name = f'{self.kind}:{printable(folder)}{split and f":{split}"}'
        self.split = split or self.splits[0]
        self.frames = self.find()[: limit or None]
        if not self.frames:
            raise FileNotFoundError(
                f'expected {self.layout} in {folder}, found no such frame; '
                'docs/data.md has the layout of every kind of data'
            )
        self._kept: dict[int, Arrays] | None = {} if keep and self.keeps else None

    @abstractmethod
    def find(self) -> list[FrameFiles]:
        """List the frames of the split, sorted, without opening their files; sets `truths`."""

    @abstractmethod
    def read(self, frame: FrameFiles) -> Arrays:
        """
        Read the files of a frame.

        :raises OSError: a file is missing or broken; the message names it.
        :raises ValueError: a file has unexpected content; the message names it.
        """

    def decode(self, arrays: Arrays) -> Arrays:
        """Convert cached arrays to values in physical units."""
        return arrays

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self.frames)

    def __getitem__(self, index: int) -> Sample:
        """Return a frame as a batch of one, with keys and units of `Sample`."""
        arrays = self.decode(self._arrays(index))
        frame = self.frames[index]
        height, width = arrays['image'].shape[:2]
        for name, array in arrays.items():
            if name not in OF_PEOPLE and array.shape[:2] != (height, width):
                raise ValueError(
                    f'{frame.files.get(name, frame.key)}: expected {name} of {width} x {height} '
                    f'pixels, the size of the image, got {array.shape[1]} x {array.shape[0]}; '
                    'use image and ground truth of the same camera'
                )
        return {name: to_tensor(name, array) for name, array in arrays.items()}

    def image(self, index: int) -> Tensor:
        """Return only the image, (1, 3, H, W) in -1..1."""
        return to_tensor('image', self._arrays(index)['image'])

    def key(self, index: int) -> str:
        """Return the name of a frame."""
        return printable(self.frames[index].key)

    def select(self, indices: Sequence[int]) -> None:
        """Keep only these frames, in this order."""
        self.frames = [self.frames[index] for index in indices]
        self._kept = None if self._kept is None else {}

    def fingerprint(self) -> str:
        """Return a short hash of the names of all frames and the sizes of their image files."""
        sizes = [f'{frame.key} {frame.files["image"].stat().st_size}' for frame in self.frames]
        return hashlib.sha256(os.fsencode('\n'.join(sizes))).hexdigest()[:16]

    def check(self) -> None:
        """Check every file once."""
        for file in dict.fromkeys(file for frame in self.frames for file in frame.files.values()):
            check_complete(file)

    def _arrays(self, index: int) -> Arrays:
        kept = self._kept
        if kept is None:
            return self.read(self.frames[index])
        if index in kept:
            return kept[index]
        arrays = self.read(self.frames[index])
        if has_room():
            kept[index] = arrays
        return arrays

    def free_memory(self) -> None:
        """Drop cached frames, and cache no more."""
        self._kept = None


def has_room() -> bool:
    """Return whether the machine has memory for more cached frames."""
    import psutil  # not needed for inference

    return bool(psutil.virtual_memory().percent < MAX_MEMORY_PERCENT)
