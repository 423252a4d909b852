"""Fine-tune a pre-trained denoiser and its readouts in one deterministic step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
import torch
from torch import nn, Tensor
from torch.distributed.tensor import DTensor

from sd_perception_ros.data.augment import color_jitter, crop, mirror, subsample
from sd_perception_ros.data.dataset import collate, Dataset
from sd_perception_ros.data.resident import ResidentDataset
from sd_perception_ros.data.windows import center_crop, prefetch, random_position, resize_to_cover
from sd_perception_ros.images import resize
from sd_perception_ros.model import Model
from sd_perception_ros.training.loop import device, is_main, run_training
from sd_perception_ros.training.options import FinetuneConfig, TrainingConfig, WindowConfig
from sd_perception_ros.types import Sample


class _DenoisersAndHeads(nn.Module):
    """
    Denoisers and heads behind one forward pass: what is wrapped for several processes.

    The autoencoder is no part of it: it is frozen and encodes outside of the pass, where sharded
    weights are not whole.
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        denoisers = [backbone.trainable() for backbone in model.backbones.values()]
        self.parts = nn.ModuleList([*denoisers, *model.heads.values()])
        self._read = partial(model.read, tasks=model.tasks)

    def forward(self, latent: Tensor) -> dict[str, Tensor]:
        """(B, c, h, w) -> {task: raw output}."""
        return self._read(latent)


def train(
    model: Model,
    dataset: Dataset,
    latents: Tensor | None,
    config: TrainingConfig,
    sizes: Sequence[tuple[int, int]],
    folder: Path,
    tuning: FinetuneConfig | None = None,
    windows: WindowConfig | None = None,
) -> Iterator[tuple[int, dict[str, float]]]:
    """
    Fit the denoisers and heads of a model; yields (steps done, losses by task).

    The encoder stays frozen, as the paper has it: what it makes of a picture is the input.

    :param model: trained in place.
    :param latents: (V, N, c, h, w) float16 of the data set, encoded before (even variants as they
        are, odd ones mirrored); None encodes each step's pictures.
    :param sizes: (height, width) of the windows, in pixels, multiples of the stride. Each serves
        an equal share of the steps: small ones first learn the most in an hour.
    :param folder: where the state lies that a stopped run goes on from.
    :param tuning: which weights move; None: all of the denoiser.
    :param windows: how windows are taken from pictures; None: at their own scale.
    :raises ValueError: a task's truth is not in the data, or a window is larger than a frame.
    """
    tuning, windows = tuning or FinetuneConfig(), windows or WindowConfig()
    _check_data(model, dataset, sizes, windows)
    adapted = _set_trainable(model, tuning)
    model.to(device())
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    # Frames that lie ready on the device, or their latents, are cut all together.
    together = latents is not None or isinstance(dataset, ResidentDataset)

    def size_of(step: int) -> tuple[int, int]:
        return sizes[min(step * len(sizes) // config.steps, len(sizes) - 1)]

    def window_of(step: int, place: int) -> _Window:
        rng = np.random.default_rng((config.seed, step, place))
        return _window(dataset, size_of(step), model.stride, windows.fit, rng)

    def losses_of(readout: Any, step: int, part: slice) -> dict[str, Tensor]:
        size = size_of(step)
        rng = np.random.default_rng((config.seed, step))
        if together:
            latent, sample = _batch(model, dataset, latents, config, size, rng, part, windows.fit)
        else:
            latent, sample = _encoded(model, drawn.take(step, range(config.batch_size)[part]))
        outputs = readout(latent)
        losses = {}
        for name, task in model.tasks.items():
            raw = outputs[name].float()
            # The loss is taken where the head answers: enlarging its answer to every pixel cost
            # more time than the network did.
            cell = max(size[0] // raw.shape[-2], 1)
            row, column = rng.integers(cell, size=2)
            known = subsample(sample, cell, row, column) if task.dense else sample
            target, valid = (tensor.to(raw.device) for tensor in task.target(known))
            losses[name] = task.loss(resize(raw, *target.shape[-2:]), target, valid)
        return losses

    about = {
        'data': dataset.fingerprint(),
        'tasks': {name: asdict(task) for name, task in model.tasks.items()},
        'encoder': model.encoder_id(),
        'together': together,
        'latents': latents is not None,
        # In their order: weights are told apart by their place alone.
        'heads': [[name, type(head).__name__] for name, head in model.heads.items()],
        'sizes': list(sizes),
        'fit': windows.fit,
        **asdict(tuning),
    }
    with prefetch(window_of, windows.workers) as drawn:
        yield from run_training(_DenoisersAndHeads(model), losses_of, config, folder, about)
    if is_main():  # others hold shards of adapters where weights are sharded
        for adapter in adapted:
            adapter.merge_and_unload()
    model.eval().requires_grad_(False)


def previews(
    model: Model, dataset: Dataset, size: tuple[int, int], fit: str = 'cover', frames: int = 4
) -> dict[str, NDArray[np.uint8]]:
    """
    Return what a model in training answers to some frames, painted.

    :param size: (height, width) of the windows that are shown, the middles of the pictures.
    :param fit: as in `WindowConfig`.
    :returns: by task, (frames * H, 3 * W, 3) uint8 RGB: picture, truth, answer; nothing where
        the weights are sharded over processes, as one of them alone cannot run the model.
    """
    if any(isinstance(weight, DTensor) for weight in model.parameters()):
        return {}
    rows: dict[str, list[NDArray[np.uint8]]] = {name: [] for name in model.tasks}
    device = next(model.parameters()).device
    for index in dataset.evenly_spaced(frames)[:frames]:
        sample = center_crop(dataset[index], size, enlarge_only=fit == 'crop')
        picture = ((sample['image'][0] + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
        with torch.no_grad():
            outputs = model(sample['image'].to(device))
        for name, task in model.tasks.items():
            target, _ = task.target(sample)
            raw = resize(outputs[name].float().cpu(), *target.shape[-2:])
            painted = [task.colorize(task.decode(one[0])) for one in (target, raw)]
            rows[name].append(np.hstack([picture, *painted]))
    return {name: np.vstack(row) for name, row in rows.items()}


def _check_data(
    model: Model, dataset: Dataset, sizes: Sequence[tuple[int, int]], windows: WindowConfig
) -> None:
    for name, task in model.tasks.items():
        for lacking in dataset.sets_without(task.truth):
            raise ValueError(
                f"task '{name}' learns from '{task.truth}', which {lacking} does not have "
                f'(it has {", ".join(dataset.truths)}); leave the task out, or choose other data'
            )
        classes = getattr(task, 'class_names', dataset.classes)
        if dataset.classes and tuple(classes) != dataset.classes:
            raise ValueError(
                f"task '{name}' has the classes {', '.join(classes)}, but those of {dataset.name} "
                f'are {", ".join(dataset.classes)}; give them with --task-options {name}.classes='
            )
    if windows.fit == 'cover':
        return
    for index in dataset.evenly_spaced(4):
        height, width = dataset.image(index).shape[-2:]
        for size in sizes:
            if size[0] > height or size[1] > width:
                raise ValueError(
                    f'a window of {size[1]}x{size[0]} does not fit into frames of '
                    f'{width}x{height} pixels ({dataset.key(index)}); choose smaller --sizes, '
                    'or --fit cover'
                )


def _set_trainable(model: Model, tuning: FinetuneConfig) -> list[Any]:
    """Let gradients reach the weights that move; return peft's handles of adapters."""
    model.train().requires_grad_(False)
    adapted = []
    for backbone in model.backbones.values():
        denoiser: Any = backbone.trainable()
        if tuning.gradient_checkpointing:
            denoiser.enable_gradient_checkpointing()
        if tuning.trainable == 'full':
            denoiser.requires_grad_(True)
        elif tuning.trainable == 'lora':
            from peft import get_peft_model, LoraConfig  # slow, and seldom used

            layers = LoraConfig(
                r=tuning.lora_rank,
                lora_alpha=tuning.lora_rank,
                target_modules=['to_q', 'to_k', 'to_v', 'to_out.0', 'conv1', 'conv2'],
            )
            adapted.append(get_peft_model(denoiser, layers))  # changes the denoiser in place
    for head in model.heads.values():
        head.requires_grad_(True)
    return adapted


class _Window(NamedTuple):
    """A window of one frame; the generator goes on to choose its colours."""

    sample: Sample
    rng: np.random.Generator


def _window(
    dataset: Dataset, size: tuple[int, int], stride: int, fit: str, rng: np.random.Generator
) -> _Window:
    sample = resize_to_cover(dataset[dataset.draw(rng)], size, enlarge_only=fit == 'crop')
    if rng.random() < 0.5:
        sample = mirror(sample)
    return _Window(crop(sample, *random_position(sample, size, rng, stride), *size), rng)


def _encoded(model: Model, windows: Sequence[_Window]) -> tuple[Tensor, Sample]:
    """Return windows as a batch: latent (B, c, h, w) and truth (B, C, H, W)."""
    device = next(model.parameters()).device
    sample = {n: v.to(device) for n, v in collate([one.sample for one in windows]).items()}
    with torch.no_grad():
        return model.encode(color_jitter(sample['image'], [one.rng for one in windows])), sample


def _batch(
    model: Model,
    dataset: Dataset,
    latents: Tensor | None,
    config: TrainingConfig,
    size: tuple[int, int],
    rng: np.random.Generator,
    part: slice,
    fit: str,
) -> tuple[Tensor, Sample]:
    """
    Return a part of a step's windows: latent (B, c, h, w) and truth (B, C, H, W).

    Of frames of one size, one place for all: a GPU cuts them in one piece.
    """
    frames = [dataset.draw(rng) for _ in range(config.batch_size)][part]
    variants = rng.integers(2 if latents is None else len(latents), size=config.batch_size)[part]
    colors = rng.integers(2**32, size=config.batch_size)[part]
    sample = dataset.batch(frames)
    if latents is None:
        sample = resize_to_cover(sample, size, enlarge_only=fit == 'crop')
    mirrored = torch.from_numpy(variants % 2 == 1).view(-1, 1, 1, 1).to(sample['image'].device)
    flipped = mirror(sample)
    sample = {name: torch.where(mirrored, flipped[name], value) for name, value in sample.items()}
    stride = model.stride
    # Windows start on latent cells, so that a window of the latent is a window of the picture.
    top, left = random_position(sample, size, rng, stride)
    sample = crop(sample, top, left, *size)
    device = next(model.parameters()).device
    if latents is None:
        generators = [np.random.default_rng(color) for color in colors]
        with torch.no_grad():
            return model.encode(color_jitter(sample['image'], generators).to(device)), sample
    places = (torch.from_numpy(variants), torch.tensor(frames))
    latent = latents[tuple(place.to(latents.device) for place in places)].float()
    window = (top // stride, left // stride, size[0] // stride, size[1] // stride)
    return crop({'latent': latent}, *window)['latent'].to(device), sample
