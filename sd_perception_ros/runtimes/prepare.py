"""Bring a loaded model to its device and its runtime."""

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

LARGE_PX = 2**17  # of all pictures of a batch: 418 x 314


class Runnable(Protocol):
    """The interface of a model in any runtime; see `Model`."""

    tasks: dict[str, Task]
    stride: int

    def encoder_id(self) -> str:
        """Return a name of the encoder's weights: equal names give equal latents."""

    def encode(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in -1..1 -> (B, c, h, w)."""

    def read(self, latent: Tensor, tasks: Collection[str]) -> dict[str, Tensor]:
        """(B, c, h, w) -> {task: raw output}."""


class SessionModel:
    """
    A model whose parts run in another runtime than torch; it holds no tensors of weights.

    :param model: folded; may be on the meta device.
    :param runtime: one of `SESSIONS`.
    :param threads: CPU threads of one run.
    """

    def __init__(self, model: Model, runtime: str, threads: int) -> None:
        self.tasks = model.tasks
        self.stride = model.stride
        keys = list(model.backbones)
        self._denoiser_of = {
            task: f'denoiser_{keys.index(key)}' for task, key in model.backbone_of.items()
        }
        self._sessions, self._encoder_id = sessions_of(model, runtime, threads)

    def encoder_id(self) -> str:
        """Return the name of the encoder's weights."""
        return self._encoder_id

    def encode(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in -1..1 -> (B, c, h, w)."""
        return self._sessions['encoder'](image, frugal=_is_large(image))[0]

    def read(self, latent: Tensor, tasks: Collection[str]) -> dict[str, Tensor]:
        """(B, c, h, w) -> {task: raw output}."""
        frugal = _is_large(latent, self.stride)
        denoised = {
            name: self._sessions[name](latent, frugal=frugal)
            for name in dict.fromkeys(self._denoiser_of[task] for task in tasks)
        }
        return {
            task: self._sessions[f'head_{task}'](
                *denoised[self._denoiser_of[task]], frugal=frugal
            )[0]
            for task in tasks
        }


def _is_large(maps: Tensor, stride: int = 1) -> bool:
    """Return whether a run is so long that giving memory back costs at most 2 % of it."""
    batch, _, height, width = maps.shape
    return batch * height * width * stride**2 >= LARGE_PX


def prepare(
    model: Model, choice: Choice, device: torch.device, dtype: torch.dtype
) -> tuple[Runnable, Choice]:
    """
    Bring a folded model to its runtime and device; the model itself cannot be used afterwards.

    :param model: may be on the meta device; its weights are read if the runtime needs them.
    :returns: the runnable model, and its runtime: torch if an automatic choice did not work.
    :raises ValueError: the runtime cannot run this model, or differs from torch.
    :raises OSError: the ONNX files cannot be written.
    """
    if choice.runtime in SESSIONS and not all(b.is_traceable() for b in model.backbones.values()):
        if not choice.is_automatic:
            raise ValueError(
                f'runtime {choice.runtime} needs a model whose ONNX graph is the same at every '
                'size; that of this model depends on the size: set runtime: torch or torch-compile'
            )
        choice = Choice('torch', 'auto: the ONNX graph of this model depends on the size')
    if choice.runtime in SESSIONS:
        try:
            return SessionModel(model, choice.runtime, torch.get_num_threads()), choice
        except (OSError, ValueError) as error:
            if not choice.is_automatic:
                raise
            choice = Choice('torch', f'auto: no ONNX graphs for {choice.runtime}, {error}')
    model = model.materialize()
    model.fold()
    model.to(device, dtype).eval()
    # Measured on a CPU: the encoder takes half the time, the denoiser five sixths.
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if choice.runtime == 'torch-compile':
        compile_model(model, device)
    return model, choice
