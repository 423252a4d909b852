"""From a model as it was loaded to one that runs on its device."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

import torch
from torch import Tensor

from sd_perception_ros.model import Model
from sd_perception_ros.runtimes.choice import Choice
from sd_perception_ros.runtimes.compiled import compile_model
from sd_perception_ros.runtimes.exporting import sessions_of
from sd_perception_ros.runtimes.sessions import SESSIONS
from sd_perception_ros.tasks.task import Task


class Runnable(Protocol):
    """What the engine asks of a model, whatever runs it; see `Model`."""

    tasks: dict[str, Task]
    stride: int

    def encode(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in -1..1 -> (B, c, h, w)."""

    def read(self, latent: Tensor, tasks: Collection[str]) -> dict[str, Tensor]:
        """(B, c, h, w) -> {task: raw output}."""


class SessionModel:
    """A model whose parts run in another runtime; it holds no weights of its own."""

    def __init__(self, model: Model, runtime: str, threads: int) -> None:
        self.tasks = model.tasks
        self.stride = model.stride
        keys = list(model.backbones)
        self._denoiser_of = {
            task: f'denoiser_{keys.index(key)}' for task, key in model.backbone_of.items()
        }
        self._sessions = sessions_of(model, runtime, threads)

    def encode(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in -1..1 -> (B, c, h, w)."""
        return self._sessions['encoder'](image)[0]

    def read(self, latent: Tensor, tasks: Collection[str]) -> dict[str, Tensor]:
        """(B, c, h, w) -> {task: raw output}."""
        denoised = {
            name: self._sessions[name](latent)
            for name in dict.fromkeys(self._denoiser_of[task] for task in tasks)
        }
        return {
            task: self._sessions[f'head_{task}'](*denoised[self._denoiser_of[task]])[0]
            for task in tasks
        }


def prepare(
    model: Model, choice: Choice, device: torch.device, dtype: torch.dtype
) -> tuple[Runnable, Choice]:
    """
    Bring a folded model to its runtime and device; the model itself is used up.

    :returns: what runs, and in which runtime: torch where another was only the best guess.
    :raises ValueError: the runtime lacks something, or gives other numbers than torch.
    :raises OSError: its files cannot be written.
    """
    if choice.runtime in SESSIONS and not all(b.traces() for b in model.backbones.values()):
        if not choice.is_free:
            raise ValueError(
                f'runtime {choice.runtime} takes models whose graph is the same at every size, '
                'and this one has another for each; set runtime: torch or torch-compile'
            )
        choice = Choice('torch', 'auto: the graph of this model depends on the size')
    if choice.runtime in SESSIONS:
        try:
            return SessionModel(model, choice.runtime, torch.get_num_threads()), choice
        except (OSError, ValueError) as error:
            if not choice.is_free:
                raise
            choice = Choice('torch', f'auto: no graphs for {choice.runtime}, {error}')
    model.to(device, dtype).eval()
    # Measured on a CPU: the encoder takes half the time, the denoiser five sixths.
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if choice.runtime == 'torch-compile':
        compile_model(model, device)
    else:
        model.join_heads()
    return model, choice
