"""
Batches of training windows with their latents.

===================  =====================================  =======================================
source               data                                   position of the windows
===================  =====================================  =======================================
`ResidentBatches`    in GPU memory, or encoded beforehand   one for the whole batch
`LoadedBatches`      files, loaded in threads               one for each image
`CropBatches`        files, loaded in threads               a person in each image
===================  =====================================  =======================================

All are deterministic: a batch depends on the seed and the step alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, ExitStack
from dataclasses import dataclass
import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sd_perception_ros.data.appearance import camera_faults
from sd_perception_ros.data.augment import color_jitter, crop, mirror
from sd_perception_ros.data.dataset import Dataset
from sd_perception_ros.data.pasting import paste
from sd_perception_ros.data.person_crops import (
    LEAST_PX,
    people_to_crop,
    person_crop,
    person_region,
    random_region,
)
from sd_perception_ros.data.resident import ResidentDataset
from sd_perception_ros.data.samples import collate
from sd_perception_ros.data.windows import (
    center_crop,
    prefetch,
    Prefetcher,
    random_position,
    resize_to_fit,
)
from sd_perception_ros.model import Model
from sd_perception_ros.people.crops import second_look_size
from sd_perception_ros.training.options import TrainingConfig, WindowConfig
from sd_perception_ros.types import Sample

MOST_DRAWS = 200  # frames that are drawn until one has a person
# Maximum rotation of a crop: that of the published recipes; less for a second look, whose model
# sees mostly upright people in whole images.
CROP_TURN_DEG, SECOND_LOOK_TURN_DEG = 80.0, 30.0


@dataclass(frozen=True)
class BatchOptions:
    """
    Options of all sources of batches.

    :ivar sizes: (height, width) of the windows, pixels; see `size_of`.
    :ivar reads_crops: the model reads crops of people; `sizes` are the sizes of the crops.
    """

    training: TrainingConfig
    windows: WindowConfig
    sizes: Sequence[tuple[int, int]]
    reads_crops: bool = False

    def is_of_crops(self, step: int) -> bool:
        """Return whether a step uses crops of people; these steps are evenly spread."""
        if self.reads_crops:
            return True
        return math.floor((step + 1) * self.windows.crops) > math.floor(step * self.windows.crops)

    def following(self, step: int) -> int:
        """Return the next step with the same kind of windows; the end if there is none."""
        kind, end = self.is_of_crops(step), self.training.steps
        return next((s for s in range(step + 1, end) if self.is_of_crops(s) == kind), end)

    def crop_size(self, step: int) -> tuple[int, int]:
        """
        Return the size of the crops of a step.

        For a second look: as high as the longer side of the window, with a ratio of 3:4.
        """
        size = self.size_of(step)
        return size if self.reads_crops else second_look_size(max(size))

    def size_of(self, step: int) -> tuple[int, int]:
        """Return the window size of a step, as `WindowConfig.size_order` describes."""
        if self.windows.size_order == 'random':
            # Seeds below the batch size are those of windows.
            seed = (self.training.seed, step, self.training.batch_size)
            return self.sizes[int(np.random.default_rng(seed).integers(len(self.sizes)))]
        index = step * len(self.sizes) // self.training.steps
        return self.sizes[min(index, len(self.sizes) - 1)]


class Batches(ABC):
    """Training batches of one model and data set."""

    def __init__(self, model: Model, dataset: Dataset, options: BatchOptions) -> None:
        self.model, self.dataset, self.options = model, dataset, options

    @abstractmethod
    def take(self, step: int, part: slice, rng: np.random.Generator) -> tuple[Tensor, Sample]:
        """
        Return some windows of a step's batch.

        :param part: indices of the windows in the batch.
        :param rng: generator of the step; it advances equally for every `part`.
        :returns: latent (B, c, h, w) on the device of the model, and the truth (B, C, H, W).
        """

    def _encode(self, images: Tensor, rngs: Sequence[np.random.Generator]) -> Tensor:
        """Change the appearance, then encode: (B, 3, H, W) in -1..1 -> (B, c, h, w)."""
        images = color_jitter(images, rngs)
        if self.options.windows.appearance == 'camera':
            images = camera_faults(images, rngs)
        with torch.no_grad():
            return self.model.encode(images.to(_device(self.model)))


class ResidentBatches(Batches):
    """
    Windows of frames of one size, all at one position: a GPU cuts them in one operation.

    :param latents: (V, N, c, h, w) float16 of the data set (even variants as they are, odd ones
        mirrored), or None: the images are encoded in each step.
    """

    def __init__(
        self, model: Model, dataset: Dataset, options: BatchOptions, latents: Tensor | None
    ) -> None:
        super().__init__(model, dataset, options)
        self.latents = latents

    def take(self, step: int, part: slice, rng: np.random.Generator) -> tuple[Tensor, Sample]:
        """Cut windows from frames, and from their latents if these are known."""
        size, count = self.options.size_of(step), self.options.training.batch_size
        frames = [self.dataset.draw(rng) for _ in range(count)][part]
        variants = rng.integers(2 if self.latents is None else len(self.latents), size=count)[part]
        seeds = rng.integers(2**32, size=count)[part]
        sample = self.dataset.batch(frames)
        if self.latents is None:
            if self.options.windows.paste and rng.random() < self.options.windows.paste:
                donors = [self.dataset.draw(rng) for _ in range(count)][part]
                sample = paste(sample, self.dataset.batch(donors), rng)
            sample = resize_to_fit(sample, size, self.options.windows.fit, rng)
        sample = _mirror_some(sample, torch.from_numpy(variants % 2 == 1))
        # Multiples of the stride, so that a window of the latent is a window of the image.
        top, left = random_position(sample, size, rng, self.model.stride)
        sample = crop(sample, top, left, *size)
        if self.latents is None:
            rngs = [np.random.default_rng(seed) for seed in seeds]
            return self._encode(sample['image'], rngs), sample
        return self._cut_latents(frames, variants, (top, left, *size)), sample

    def _cut_latents(
        self, frames: Sequence[int], variants: np.ndarray, window: tuple[int, ...]
    ) -> Tensor:
        assert self.latents is not None
        device = self.latents.device
        indices = torch.from_numpy(variants).to(device), torch.tensor(frames).to(device)
        latent = self.latents[indices].float()
        top, left, height, width = (pixels // self.model.stride for pixels in window)
        return latent[..., top : top + height, left : left + width].to(_device(self.model))


class LoadedBatches(Batches):
    """Windows cut from image files, each at its own position; threads load them in advance."""

    def __init__(self, model: Model, dataset: Dataset, options: BatchOptions) -> None:
        super().__init__(model, dataset, options)
        self.prefetcher: Prefetcher[_Window] | None = None

    def take(self, step: int, part: slice, rng: np.random.Generator) -> tuple[Tensor, Sample]:
        """Collate windows and encode them."""
        assert self.prefetcher is not None
        indices = range(self.options.training.batch_size)[part]
        windows = self.prefetcher.take(step, indices, self.options.following(step))
        sample = collate([window.sample for window in windows])
        sample = {name: value.to(_device(self.model)) for name, value in sample.items()}
        return self._encode(sample['image'], [window.rng for window in windows]), sample

    def load(self, step: int, index: int) -> _Window:
        """Load one window of a step's batch."""
        rng = np.random.default_rng((self.options.training.seed, step, index))
        size, windows = self.options.size_of(step), self.options.windows
        sample = self.dataset[self.dataset.draw(rng)]
        if windows.paste and rng.random() < windows.paste:
            height, width = sample['image'].shape[-2:]
            donor = center_crop(self.dataset[self.dataset.draw(rng)], (height, width))
            sample = paste(sample, mirror(donor) if rng.random() < 0.5 else donor, rng)
        sample = resize_to_fit(sample, size, windows.fit, rng)
        if rng.random() < 0.5:
            sample = mirror(sample)
        position = random_position(sample, size, rng, self.model.stride)
        return _Window(crop(sample, *position, *size), rng)


class CropBatches(LoadedBatches):
    """
    Crops of random people, for an SDPose checkpoint or a second look.

    :raises ValueError: none of many random frames has a person with annotated joints.
    """

    def load(self, step: int, index: int) -> _Window:
        """Load one crop of a step's batch."""
        rng = np.random.default_rng((self.options.training.seed, step, index))
        for _ in range(MOST_DRAWS):
            sample = self.dataset[self.dataset.draw(rng)]
            if people := people_to_crop(sample):
                break
        else:
            raise ValueError(
                f'{self.dataset.name}: expected people whose annotated joints span {LEAST_PX} px, '
                f'got none in {MOST_DRAWS} frames; choose other data, or train without --crops'
            )
        if rng.random() < 0.5:
            sample = mirror(sample)
        number = people[int(rng.integers(len(people)))]
        most_turn_deg = CROP_TURN_DEG if self.options.reads_crops else SECOND_LOOK_TURN_DEG
        region, angle = random_region(sample['joints'][0, number].numpy(), rng, most_turn_deg)
        return _Window(
            person_crop(sample, number, region, self.options.crop_size(step), angle), rng
        )


class MixedBatches(Batches):
    """
    Windows of whole images in some steps, crops of people in the others.

    :param windows: batches of whole images.
    """

    def __init__(self, windows: Batches, crops: CropBatches) -> None:
        super().__init__(windows.model, windows.dataset, windows.options)
        self.windows, self.crops = windows, crops

    def take(self, step: int, part: slice, rng: np.random.Generator) -> tuple[Tensor, Sample]:
        """Return windows or crops, depending on the step."""
        chosen = self.crops if self.options.is_of_crops(step) else self.windows
        return chosen.take(step, part, rng)


class _Window(NamedTuple):
    """A window of one image, and the generator for its colour changes."""

    sample: Sample
    rng: np.random.Generator


def still_window(model: Model, sample: Sample, size: tuple[int, int], fit: str) -> Sample | None:
    """
    Return a fixed window of a frame, for TensorBoard and for validation.

    :param size: (height, width) of the window.
    :param fit: as in `WindowConfig`.
    :returns: the centre of the image; for a model that reads crops, the crop of the first person,
        or None if there is no person.
    """
    if not model.reads_crops:
        return center_crop(sample, size, enlarge_only=fit == 'crop')
    people = people_to_crop(sample)
    if not people:
        return None
    region = person_region(sample['joints'][0, people[0]].numpy())
    return person_crop(sample, people[0], region, size)


def is_resident(dataset: Dataset, latents: Tensor | None) -> bool:
    """Return whether batches come from memory: `ResidentBatches`."""
    return latents is not None or isinstance(dataset, ResidentDataset)


@contextmanager
def open_batches(
    model: Model, dataset: Dataset, latents: Tensor | None, options: BatchOptions
) -> Iterator[Batches]:
    """Choose the source of batches; threads that load files end with the block."""
    with ExitStack() as stack:

        def loaded(batches: LoadedBatches) -> LoadedBatches:
            ahead = prefetch(batches.load, options.windows.workers)
            batches.prefetcher = stack.enter_context(ahead)
            return batches

        if options.reads_crops:
            yield loaded(CropBatches(model, dataset, options))
            return
        windows: Batches
        if is_resident(dataset, latents):
            windows = ResidentBatches(model, dataset, options, latents)
        else:
            windows = loaded(LoadedBatches(model, dataset, options))
        if options.windows.crops:
            crops = CropBatches(model, dataset, options)
            loaded(crops)
            windows = MixedBatches(windows, crops)
        yield windows


def _mirror_some(sample: Sample, mirrored: Tensor) -> Sample:
    """Mirror the samples of a batch for which `mirrored`, (B,) bool, is true."""
    chosen = mirrored.view(-1, 1, 1, 1).to(sample['image'].device)
    flipped = mirror(sample)
    return {name: torch.where(chosen, flipped[name], value) for name, value in sample.items()}


def _device(model: Model) -> torch.device:
    return next(model.parameters()).device
