"""A data set decoded into the memory of the training device."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from sd_perception_ros.data.dataset import Dataset, DatasetWrapper
from sd_perception_ros.types import Sample

# Metres and pixel coordinates need float32; float16 suffices for alpha, class ids and unit
# vectors.
STORED = {'image': torch.uint8, 'depth_m': torch.float32, 'joints': torch.float32}
CHUNK = 64
# Reason: a GPU trains a step of a small model while a CPU core decodes a few frames.
MAX_MEMORY_SHARE = 0.3  # of the device's memory


class ResidentDataset(DatasetWrapper):
    """
    The frames of another data set in device memory: batches need no copy from the host.

    :param dataset: frames of one size.
    :param device: a 256 x 192 frame with all ground truth takes 0.9 MB.
    :param readers: threads that decode frames.
    :raises ValueError: the frames differ in size.
    """

    def __init__(self, dataset: Dataset, device: torch.device, readers: int = 8) -> None:
        super().__init__(dataset)
        self._maps: dict[str, Tensor] = {}
        count = len(dataset)
        with ThreadPoolExecutor(readers) as pool:
            for start in range(0, count, CHUNK):
                indices = range(start, min(start + CHUNK, count))
                samples = list(pool.map(dataset.__getitem__, indices))
                for name, first in samples[0].items():
                    shapes = {tuple(sample[name].shape[1:]) for sample in samples}
                    stored = self._maps.setdefault(name, _room(count, name, first, device))
                    if shapes != {tuple(stored.shape[1:])}:
                        raise ValueError(
                            f'expected frames of one size, got {name} of {sorted(shapes)}'
                        )
                    chunk = torch.cat([_packed(name, sample[name]) for sample in samples])
                    stored[indices.start : indices.stop] = chunk.to(device)
                dataset.free_memory()  # the frames are on the device now

    def images(self, indices: Sequence[int]) -> Tensor:
        """Return only the images, (B, 3, H, W) in -1..1, on the device."""
        return self._take('image', torch.tensor(list(indices)))

    def batch(self, indices: Sequence[int]) -> Sample:
        """Return several frames as a batch, on the device."""
        chosen = torch.tensor(list(indices))
        return {name: self._take(name, chosen) for name in self._maps}

    def _take(self, name: str, chosen: Tensor) -> Tensor:
        stored = self._maps[name]
        values = stored[chosen.to(stored.device)].float()
        return values / 127.5 - 1 if name == 'image' else values


def resident(dataset: Dataset, device: torch.device) -> Dataset:
    """
    Copy a data set to a GPU if it fits into 30 % of its memory; else return it unchanged.

    Data sets with frames of several sizes are returned unchanged, too.

    :raises ValueError: other processes use the memory.
    """
    if device.type != 'cuda' or not dataset.uniform:
        return dataset
    first = dataset[0]
    if any(dataset.image(i).shape != first['image'].shape for i in dataset.evenly_spaced(8)):
        return dataset
    size = sum(_packed(name, value).nbytes for name, value in first.items()) * len(dataset)
    # The total, not the free memory: a resumed run must decide in the same way.
    _, total = torch.cuda.mem_get_info(device)
    if size >= MAX_MEMORY_SHARE * total:
        return dataset
    try:
        return ResidentDataset(dataset, device)
    except torch.OutOfMemoryError as error:
        raise ValueError(
            f'expected {size / 2**30:.1f} GiB of free memory on {device} for the data; stop other '
            'processes on this GPU'
        ) from error


def _room(count: int, name: str, first: Tensor, device: torch.device) -> Tensor:
    shape = (count, *first.shape[1:])
    return torch.empty(shape, dtype=STORED.get(name, torch.float16), device=device)


def _packed(name: str, values: Tensor) -> Tensor:
    levels = ((values + 1) * 127.5).round() if name == 'image' else values
    return levels.to(STORED.get(name, torch.float16))
