"""Bring a loaded model to its device and its runtime."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
import contextlib
from typing import Protocol
import weakref

import torch
from torch import Tensor

from sd_perception_ros.config import GPU_RUNTIMES
from sd_perception_ros.model import Model
from sd_perception_ros.runtimes.background import BackgroundSession, EngineBuilder
from sd_perception_ros.runtimes.choice import Choice, serves_without_torch
from sd_perception_ros.runtimes.compiled import compile_model
from sd_perception_ros.runtimes.exporting import sessions_of
from sd_perception_ros.runtimes.parts import parts_of
from sd_perception_ros.runtimes.sessions import SESSIONS
from sd_perception_ros.tasks.task import Task

LARGE_PX = 2**17  # of all images of a batch: 418 x 314


class Runnable(Protocol):
    """The interface of a model in any runtime; see `Model`."""

    tasks: dict[str, Task]
    stride: int

    def encoder_id(self) -> str:
        """Return an id of the weights of the encoder: equal ids give equal latents."""

    def encode(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in -1..1 -> (B, c, h, w)."""

    def read(self, latent: Tensor, tasks: Collection[str]) -> dict[str, Tensor]:
        """(B, c, h, w) -> {task: raw output}."""


class SessionModel:
    """
    A model whose parts run in sessions; it holds no weights itself.

    :param model: folded; may be on the meta device.
    :param sessions: by the names of the parts.
    :param encoder_id: name of the encoder's weights.
    """

    def __init__(
        self,
        model: Model,
        sessions: Mapping[str, Callable[..., tuple[Tensor, ...]]],
        encoder_id: str,
    ) -> None:
        self.tasks = model.tasks
        self.stride = model.stride
        keys = list(model.backbones)
        self._denoiser_of = {
            task: f'denoiser_{keys.index(key)}' for task, key in model.backbone_of.items()
        }
        self._sessions, self._encoder_id = dict(sessions), encoder_id

    def encoder_id(self) -> str:
        """Return the id of the weights of the encoder."""
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


class GpuModel(SessionModel):
    """
    A model on a GPU that torch runs until engines of another runtime are ready.

    :param model: folded, on its device, in its number format.
    :param runtime: one of `GPU_RUNTIMES`.
    :param device: of the model.
    """

    def __init__(self, model: Model, runtime: str, device: torch.device) -> None:
        self._builder = EngineBuilder(model, runtime, device)
        self._parts = {
            part.name: BackgroundSession(part, self._builder) for part in parts_of(model)
        }
        super().__init__(model, self._parts, '')
        self._model = model
        self.is_recordable = runtime == 'tensorrt'
        weakref.finalize(self, self._builder.stop)

    def encoder_id(self) -> str:
        """Return the name of the encoder's weights."""
        return self._model.encoder_id()

    def use_finished(self) -> bool:
        """Use finished engines from the next frame on; return whether there are any."""
        changed = [part.use_finished() for part in self._parts.values()]
        return any(changed)

    @contextlib.contextmanager
    def without_builds(self) -> Iterator[None]:
        """Request no engines within this context."""
        self._builder.accepts_requests = False
        try:
            yield
        finally:
            self._builder.accepts_requests = True

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until all requested engines are built or have failed; return whether they are."""
        return self._builder.wait(timeout_s)

    def state(self) -> str:
        """Return which parts torch still runs, and why."""
        waiting, problems = [], []
        for name, part in self._parts.items():
            if part.problems:
                problems.append(f'torch runs {name}: {next(iter(part.problems.values()))}')
            elif not part.is_ready:
                waiting.append(name)
        if waiting:
            problems.insert(0, f'torch runs {", ".join(waiting)} until engines are ready')
        return '; '.join(problems) or 'all parts'


def _is_large(maps: Tensor, stride: int = 1) -> bool:
    """Return whether a run is so long that returning memory costs at most 2 % of it."""
    batch, _, height, width = maps.shape
    return batch * height * width * stride**2 >= LARGE_PX


def prepare(
    model: Model, choice: Choice, device: torch.device, dtype: torch.dtype
) -> tuple[Runnable, Choice]:
    """
    Bring a folded model to its runtime and device; the model itself cannot be used afterwards.

    :param model: may be on the meta device; its weights are read if the runtime needs them.
    :returns: the runnable model, and its runtime: torch if an automatic choice failed.
    :raises ValueError: the runtime cannot run this model, or differs from torch.
    :raises OSError: the ONNX files cannot be written.
    """
    needs_graphs = choice.runtime in (*SESSIONS, *GPU_RUNTIMES)
    if needs_graphs and not all(b.is_traceable() for b in model.backbones.values()):
        if not choice.is_automatic:
            raise ValueError(
                f'runtime {choice.runtime} needs a model whose ONNX graph is the same at every '
                'size; that of this model depends on the size: set runtime: torch or torch-compile'
            )
        choice = Choice('torch', 'auto: the ONNX graph of this model depends on the size')
    if serves_without_torch(choice, device):
        try:
            sessions, encoder_id = sessions_of(model, choice.runtime, torch.get_num_threads())
            return SessionModel(model, sessions, encoder_id), choice
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
    if choice.runtime in GPU_RUNTIMES:
        return GpuModel(model.requires_grad_(False), choice.runtime, device), choice
    return model, choice
