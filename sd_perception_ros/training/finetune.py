"""Fine-tune a pre-trained denoiser and task heads for prediction in one denoising step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn, Tensor
from torch.distributed.tensor import DTensor

from sd_perception_ros.data.augment import subsample
from sd_perception_ros.data.dataset import Dataset
from sd_perception_ros.data.pasting import NEEDED_TO_PASTE
from sd_perception_ros.images import resize
from sd_perception_ros.model import Model
from sd_perception_ros.tasks.pose_task import PoseTask
from sd_perception_ros.tasks.task import Task
from sd_perception_ros.training.batches import (
    BatchOptions,
    is_resident,
    open_batches,
    still_window,
)
from sd_perception_ros.training.loop import run_training
from sd_perception_ros.training.options import FinetuneConfig, TrainingConfig, WindowConfig
from sd_perception_ros.training.processes import device, is_main
from sd_perception_ros.training.validation import Validation
from sd_perception_ros.types import Sample, UInt8

CROPS = '_crops'  # behind the name of a task: its loss on crops of people


class _DenoisersAndHeads(nn.Module):
    """
    Denoisers and heads as one module, which accelerate wraps for several processes.

    The frozen autoencoder is left out: it encodes outside of this forward pass, where FSDP does
    not gather weights.
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
    validation: Validation | None = None,
) -> Iterator[tuple[int, dict[str, float]]]:
    """
    Fine-tune the denoisers and heads of a model; yields (steps done, losses by task).

    The encoder stays frozen, as in GenPercept: its latents are the input.

    :param model: trained in place.
    :param latents: (V, N, c, h, w) float16 latents of the data set from `encode_dataset`; None:
        the images of each step are encoded.
    :param sizes: (height, width) of the windows in pixels, multiples of the stride. Each is used
        for an equal share of the steps, in this order: small windows first train faster.
    :param folder: for the training state, from which a stopped run is resumed.
    :param tuning: which weights are trained; None: the whole denoiser and the heads.
    :param windows: how windows are cut from images; None: at the scale of the images. A model that
        reads crops of people trains on such crops of `sizes` alone.
    :param validation: of this model; the weights then end as the best that it found.
    :raises ValueError: the data lacks the truth of a task, or an image is smaller than a window.
    """
    tuning, windows = tuning or FinetuneConfig(), windows or WindowConfig()
    crop_tasks = {n: task for n, task in model.tasks.items() if isinstance(task, PoseTask)}
    if windows.crops and not crop_tasks:
        raise ValueError(
            f'--crops trains human_pose, and the tasks are {", ".join(model.tasks)}; add it, or '
            'remove --crops'
        )
    check_data(model, dataset)
    if not model.reads_crops:
        _check_windows(dataset, sizes, windows)
    adapters = _set_trainable(model, tuning)
    model.to(device())
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    options = BatchOptions(config, windows, sizes, model.reads_crops)
    with open_batches(model, dataset, latents, options) as batches:

        def losses_of(network: Any, step: int, part: slice) -> dict[str, Tensor]:
            rng = np.random.default_rng((config.seed, step))
            latent, sample = batches.take(step, part, rng)
            outputs = network(latent)
            if not options.is_of_crops(step):
                return _task_losses(model.tasks, outputs, sample, options.size_of(step)[0], rng)
            losses = _task_losses(crop_tasks, outputs, sample, options.crop_size(step)[0], rng)
            suffix = '' if model.reads_crops else CROPS
            return {f'{name}{suffix}': loss for name, loss in losses.items()}

        identity = {
            **_identity(model, dataset, options),
            'resident': is_resident(dataset, latents),
            'latents': latents is not None,
            **asdict(tuning),
        }
        network = _DenoisersAndHeads(model)
        yield from run_training(network, losses_of, config, folder, identity, validation)
    if is_main():  # with FSDP, the other processes hold only shards of the adapters
        for adapter in adapters:
            adapter.merge_and_unload()
    model.eval().requires_grad_(False)


def _task_losses(
    tasks: Mapping[str, Task],
    outputs: Mapping[str, Tensor],
    sample: Sample,
    height: int,
    rng: np.random.Generator,
) -> dict[str, Tensor]:
    """
    Return the loss of each task at the resolution of its head.

    Enlarging the outputs to full resolution instead took longer than the network itself.

    :param height: height of the window, pixels.
    :param rng: draws the pixel of each cell that is compared.
    """
    losses = {}
    for name, task in tasks.items():
        raw = outputs[name].float()
        cell = max(height // raw.shape[-2], 1)
        row, column = rng.integers(cell, size=2)
        compared = subsample(sample, cell, row, column) if task.dense else sample
        target, valid = (tensor.to(raw.device) for tensor in task.target(compared))
        losses[name] = task.loss(resize(raw, *target.shape[-2:]), target, valid)
    return losses


def _identity(model: Model, dataset: Dataset, options: BatchOptions) -> dict[str, object]:
    """Return what must be equal when a stopped run is resumed, beside the training options."""
    windows = asdict(options.windows)
    if not windows['crops']:  # as in states of the version before
        del windows['crops']
    return {
        'data': dataset.fingerprint(),
        'tasks': {name: asdict(task) for name, task in model.tasks.items()},
        'encoder': model.encoder_id(),
        # In order: the optimizer's state has no names.
        'heads': [[name, type(head).__name__] for name, head in model.heads.items()],
        'sizes': list(options.sizes),
        **{name: value for name, value in windows.items() if name != 'workers'},
    }


def previews(
    model: Model, dataset: Dataset, size: tuple[int, int], fit: str = 'cover', frames: int = 4
) -> dict[str, list[tuple[UInt8, UInt8, UInt8]]]:
    """
    Return images of the predictions of a model in training.

    :param size: (height, width) of the windows; see `still_window`.
    :param fit: as in `WindowConfig`.
    :returns: by task and frame: image, truth, prediction, each (H, W, 3) uint8 RGB. Empty with
        FSDP, where a single process cannot run the model.
    """
    if any(isinstance(weight, DTensor) for weight in model.parameters()):
        return {}
    rows: dict[str, list[tuple[UInt8, UInt8, UInt8]]] = {name: [] for name in model.tasks}
    device = next(model.parameters()).device
    for index in dataset.evenly_spaced(frames)[:frames]:
        sample = still_window(model, dataset[index], size, fit)
        if sample is None:
            continue
        rgb = ((sample['image'][0] + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
        with torch.no_grad():
            outputs = model(sample['image'].to(device))
        for name, task in model.tasks.items():
            target, _ = task.target(sample)
            raw = resize(outputs[name].float().cpu(), *target.shape[-2:])
            truth, prediction = (task.colorize(task.decode(t[0])) for t in (target, raw))
            rows[name].append((rgb, truth, prediction))
    return rows


def check_data(model: Model, dataset: Dataset) -> None:
    """
    Check that the data has the truth and the classes of every task.

    :raises ValueError: it has not.
    """
    for name, task in model.tasks.items():
        for data in dataset.sets_without(task.truth):
            raise ValueError(
                f"task '{name}' needs '{task.truth}', which {data} does not have "
                f'(it has {", ".join(dataset.truths)}); remove the task, or choose other data'
            )
        classes = getattr(task, 'class_names', dataset.classes)
        if dataset.classes and tuple(classes) != dataset.classes:
            raise ValueError(
                f"task '{name}' has the classes {', '.join(classes)}, but {dataset.name} has "
                f'{", ".join(dataset.classes)}; set them with --task-options {name}.classes='
            )


def _check_windows(
    dataset: Dataset, sizes: Sequence[tuple[int, int]], windows: WindowConfig
) -> None:
    if windows.paste:
        for truth in NEEDED_TO_PASTE:
            for data in dataset.sets_without(truth):
                raise ValueError(
                    f"--paste needs '{truth}', which {data} does not have; remove --paste, or "
                    'choose other data'
                )
    if windows.fit != 'crop':
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
    """Set requires_grad of all weights; return the LoRA adapters (peft), to be merged later."""
    model.train().requires_grad_(False)
    adapters = []
    for backbone in model.backbones.values():
        denoiser: Any = backbone.trainable()
        if tuning.gradient_checkpointing:
            denoiser.enable_gradient_checkpointing()
        if tuning.trainable == 'full':
            denoiser.requires_grad_(True)
        elif tuning.trainable == 'lora':
            from peft import get_peft_model, LoraConfig  # slow to import

            layers = LoraConfig(
                r=tuning.lora_rank,
                lora_alpha=tuning.lora_rank,
                target_modules=['to_q', 'to_k', 'to_v', 'to_out.0', 'conv1', 'conv2'],
            )
            adapters.append(get_peft_model(denoiser, layers))  # changes the denoiser in place
    for head in model.heads.values():
        head.requires_grad_(True)
    return adapters
