"""Validation while training: held-out losses and metrics, and the best weights so far."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open, SafetensorError
import torch
from torch import nn, Tensor

from sd_perception_ros.data.dataset import Dataset
from sd_perception_ros.images import resize
from sd_perception_ros.model import Model
from sd_perception_ros.safe_save import save_safetensors
from sd_perception_ros.tasks.task import Task
from sd_perception_ros.training.batches import still_window
from sd_perception_ros.training.options import ValidationConfig
from sd_perception_ros.types import Grid, Prediction, Sample

BEST = 'best.safetensors'


@dataclass(frozen=True)
class Validated:
    """
    What one validation measured.

    :ivar step: training steps done.
    :ivar losses: by task, each a mean over frames; those without known pixels are left out.
    :ivar metrics: by task, as in `Task.summarize`.
    :ivar best: whether the sum of the losses is the lowest so far.
    """

    step: int
    losses: Mapping[str, float]
    metrics: Mapping[str, Mapping[str, float]]
    best: bool


@dataclass
class Validation:
    """
    Held-out frames on which a model in training is measured.

    :ivar model: the model in training.
    :ivar dataset: has the truth of every task of the model.
    :ivar size: (height, width) of the windows; see `still_window`.
    :ivar fit: as in `WindowConfig`.
    :ivar config: how often, and on how many frames.
    :ivar folder: the best weights are written to `BEST` in it.
    :ivar report: called with each result.
    """

    model: Model
    dataset: Dataset
    size: tuple[int, int]
    fit: str
    config: ValidationConfig
    folder: Path
    report: Callable[[Validated], None]

    def is_due(self, done: int, steps: int) -> bool:
        """Return whether to validate after `done` of `steps` steps: also after the last one."""
        return done % self.config.validate_every == 0 or done == steps

    def run(self, done: int, weights: Sequence[nn.Parameter]) -> None:
        """
        Measure the model as it is, and write its weights if their loss is the lowest so far.

        :param weights: what is trained, in an order that is the same in every call.
        :raises OSError: the weights cannot be written.
        """
        was_training = self.model.training
        self.model.eval()
        losses, metrics = self._measure()
        self.model.train(was_training)
        total = sum(losses.values())
        before = best_of(self.folder)
        best = before is None or total < before[1]
        if best:
            tensors = {str(i): w.detach().cpu().contiguous() for i, w in enumerate(weights)}
            about = {'step': str(done), 'loss': repr(total)}
            save_safetensors(self.folder / BEST, tensors, about)
        self.report(Validated(done, losses, metrics, best))

    @torch.no_grad()
    def _measure(self) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
        tasks = self.model.tasks
        losses: dict[str, list[float]] = {name: [] for name in tasks}
        errors: dict[str, list[Any]] = {name: [] for name in tasks}
        device = next(self.model.parameters()).device
        frames = self.config.validate_frames
        for index in self.dataset.evenly_spaced(frames)[:frames]:
            sample = still_window(self.model, self.dataset[index], self.size, self.fit)
            if sample is None:
                continue
            outputs = self.model(sample['image'].to(device))
            for name, task in tasks.items():
                raw = outputs[name].float().cpu()
                target, valid = task.target(sample)
                if bool(valid.any()):
                    resized = resize(raw, *target.shape[-2:])
                    losses[name].append(float(task.loss(resized, target, valid)))
                errors[name].append(task.measure(_decode(task, raw, sample), sample))
        return (
            {name: sum(values) / len(values) for name, values in losses.items() if values},
            {name: task.summarize(errors[name]) for name, task in tasks.items() if errors[name]},
        )


def best_of(folder: Path) -> tuple[int, float] | None:
    """Return the step and the loss of the best weights in a folder; None: there are none."""
    try:
        with safe_open(folder / BEST, 'pt') as file:
            about = file.metadata() or {}
            return int(about['step']), float(about['loss'])
    except (FileNotFoundError, SafetensorError, KeyError, ValueError):
        return None


@torch.no_grad()
def load_best(folder: Path, weights: Sequence[nn.Parameter]) -> None:
    """Replace weights by the best ones in a folder, in the order in which they were kept."""
    with safe_open(folder / BEST, 'pt') as file:
        for index, weight in enumerate(weights):
            weight.copy_(file.get_tensor(str(index)))


def _decode(task: Task, raw: Tensor, sample: Sample) -> Prediction:
    """Decode a raw output (1, channels, h, w) of a window, which needs no padding."""
    height, width = sample['image'].shape[-2:]
    if task.dense:
        return task.decode(resize(raw, height, width)[0])
    rows, columns = raw.shape[-2:]
    return task.decode(raw[0], Grid(height, width, width / columns, height / rows))
