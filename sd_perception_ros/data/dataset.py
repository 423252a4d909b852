"""What a data set is: pictures with truths, of any sizes, drawn at random or one by one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
import hashlib
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray
import torch
from torch import Tensor

from sd_perception_ros.data.files import check_whole
from sd_perception_ros.types import Sample

# What `read` gives: image (H, W, 3) uint8, depth_m (H, W) float32, normals (H, W, 3) float32,
# labels (H, W) uint8, foreground and matte (H, W) float32, joints (P, 17, 3) and bodies (Q, 6)
# float32.
Arrays = Mapping[str, NDArray[Any]]
MOST_FULL_PERCENT = 60  # of the machine's memory: then no further frame is kept
OF_PEOPLE = ('joints', 'bodies')  # rows of people; all others are maps


class FrameFiles(NamedTuple):
    """
    One picture and its truths.

    :ivar key: its name in the set, for people.
    :ivar files: by what they hold; `image` always.
    """

    key: str
    files: dict[str, Path]


class Dataset(ABC):
    """
    Pictures and what is true about them; all of `Sample`'s conventions hold.

    :ivar name: what messages call it, such as 'hypersim:data/hypersim'.
    :ivar truths: names of the truths that every frame has.
    :ivar classes: what the ids of `labels` stand for; empty: as whoever made them knows.
    :ivar uniform: whether all frames are known to have one size, and room for as many people.
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
        """Return a short name of this very set: of its frames and the sizes of their pictures."""

    @abstractmethod
    def key(self, index: int) -> str:
        """Return a frame's name."""

    @abstractmethod
    def check(self) -> None:
        """
        Look at every file without reading it, so that a broken one is found before a training.

        :raises OSError: a file is missing, empty or cut off; the message names it.
        """

    def forget(self) -> None:  # noqa: B027 (most sets hold nothing)
        """Give memory back that holds decoded frames."""

    def image(self, index: int) -> Tensor:
        """Return the picture alone, (1, 3, H, W) in -1..1."""
        return self[index]['image']

    def images(self, indices: Sequence[int]) -> Tensor:
        """
        Return the pictures alone of frames of one size, (B, 3, H, W) in -1..1.

        :raises ValueError: they have several sizes.
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
        """Return the indices of at most `count` frames, evenly chosen."""
        return [int(i) for i in np.linspace(0, len(self) - 1, min(count, len(self)))]

    def sets_without(self, truth: str) -> list[str]:
        """Return the names of the sets in here that do not have a truth."""
        return [] if truth in self.truths else [self.name]

    def recipe(self) -> dict[str, Any]:
        """Return how the frames were made, where that is known."""
        return {}


class DatasetWrapper(Dataset):
    """Another set, of which a subclass gives the frames in another way."""

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
        """Return a frame's name."""
        return self.dataset.key(index)

    def draw(self, rng: np.random.Generator) -> int:
        """Return the index of a random frame."""
        return self.dataset.draw(rng)

    def evenly_spaced(self, count: int) -> list[int]:
        """Return the indices of at most `count` frames of each set, evenly chosen."""
        return self.dataset.evenly_spaced(count)

    def sets_without(self, truth: str) -> list[str]:
        """Return the names of the sets in here that do not have a truth."""
        return self.dataset.sets_without(truth)

    def fingerprint(self) -> str:
        """Return a short name of this very set."""
        return self.dataset.fingerprint()

    def check(self) -> None:
        """Look at every file."""
        self.dataset.check()

    def recipe(self) -> dict[str, Any]:
        """Return how the frames were made."""
        return self.dataset.recipe()

    def forget(self) -> None:
        """Give memory back that holds decoded frames."""
        self.dataset.forget()


class FolderDataset(Dataset):
    """
    A set that lies in a folder, in the layout that its authors gave it.

    :cvar kind: what --data calls it.
    :cvar layout: where a frame's files lie, for people.
    :cvar signs: patterns of paths, of which only a folder of this kind has one.
    :cvar splits: parts of the set by name; the first is used where none is named.
    :cvar keeps: whether decoded frames are small enough to be kept in memory while it has room.
    :param limit: use only the first frames; 0 uses all.
    :param keep: keep the decoded pixels in memory, if frames of this kind are small.
    :param split: which part of the set.
    :param measuring: also frames that teach nothing, and what only measuring asks for.
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
        self.name = f'{self.kind}:{folder}{split and f":{split}"}'
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
        """
        List the frames of the split, sorted; sets `truths`.

        Files are not opened.
        """

    @abstractmethod
    def read(self, frame: FrameFiles) -> Arrays:
        """
        Read a frame's files.

        :raises OSError: one is missing or broken; the message names it.
        :raises ValueError: one holds something else; the message names it.
        """

    def decode(self, arrays: Arrays) -> Arrays:
        """Turn what is kept in memory into values in units."""
        return arrays

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self.frames)

    def __getitem__(self, index: int) -> Sample:
        """Return a frame as a batch of one; keys and units as `Sample` says."""
        arrays = self.decode(self._arrays(index))
        frame = self.frames[index]
        height, width = arrays['image'].shape[:2]
        for name, array in arrays.items():
            if name not in OF_PEOPLE and array.shape[:2] != (height, width):
                raise ValueError(
                    f'{frame.files.get(name, frame.key)}: expected {name} of {width} x {height} '
                    f'pixels, as the picture has, got {array.shape[1]} x {array.shape[0]}; take '
                    'both from the same camera'
                )
        return {name: to_tensor(name, array) for name, array in arrays.items()}

    def image(self, index: int) -> Tensor:
        """Return the picture alone, (1, 3, H, W) in -1..1."""
        return to_tensor('image', self._arrays(index)['image'])

    def key(self, index: int) -> str:
        """Return a frame's name."""
        return self.frames[index].key

    def choose(self, indices: Sequence[int]) -> None:
        """Leave only these frames, in this order."""
        self.frames = [self.frames[index] for index in indices]
        self._kept = None if self._kept is None else {}

    def fingerprint(self) -> str:
        """Return a short name of this very set: of its frames and the sizes of their pictures."""
        sizes = [f'{frame.key} {frame.files["image"].stat().st_size}' for frame in self.frames]
        return hashlib.sha256('\n'.join(sizes).encode()).hexdigest()[:16]

    def check(self) -> None:
        """Look at every file, once."""
        for file in dict.fromkeys(file for frame in self.frames for file in frame.files.values()):
            check_whole(file)

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

    def forget(self) -> None:
        """Give the memory of kept frames back, and keep no more."""
        self._kept = None


def has_room() -> bool:
    """Return whether most of the machine's memory is free still, whoever uses the rest."""
    import psutil  # here: a robot runs without it

    return bool(psutil.virtual_memory().percent < MOST_FULL_PERCENT)


def size_mismatch(key: str, wanted: Sequence[int], came: Sequence[int]) -> str:
    """Return the message about a frame that has not the (height, width) of those before it."""
    return (
        f'{key}: expected a picture of {wanted[1]} x {wanted[0]} pixels, as those before it, got '
        f'{came[1]} x {came[0]}; bring all to one size: --frame-size {wanted[1]}x{wanted[0]}'
    )


def to_tensor(name: str, array: NDArray[Any]) -> Tensor:
    """Return what `Sample` wants of an array that `read` gives, as a batch of one."""
    tensor = torch.from_numpy(np.ascontiguousarray(array, np.float32))
    if name in OF_PEOPLE:
        return tensor[None]
    if name == 'image':
        tensor = tensor / 255 * 2 - 1
    maps = tensor if tensor.ndim == 3 else tensor[..., None]
    return maps.permute(2, 0, 1)[None].contiguous()


def collate(samples: Sequence[Sample]) -> Sample:
    """Return samples of one size as a batch; rows of zeros make their people as many."""
    people = max(
        (sample['joints'].shape[1] for sample in samples if 'joints' in sample), default=0
    )
    batch = {}
    for name in samples[0]:
        values = [sample[name] for sample in samples]
        if name == 'joints':
            values = [_with_people(joints, people) for joints in values]
        batch[name] = torch.cat(values)
    return batch


def _with_people(joints: Tensor, people: int) -> Tensor:
    nobody = joints.new_zeros(len(joints), people - joints.shape[1], *joints.shape[2:])
    return torch.cat([joints, nobody], 1)
