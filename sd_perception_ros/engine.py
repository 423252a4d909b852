"""Run a trained model on pictures: the only way in for nodes, command line and evaluation."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
import contextlib
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
import torch
from torch import nn, Tensor

from sd_perception_ros.checkpoint import checkpoint
from sd_perception_ros.checkpoint.config_file import CheckpointConfig, open_checkpoint
from sd_perception_ros.config import EngineConfig
from sd_perception_ros.images import (
    check_rgb,
    fitted_size,
    normalized,
    pad_to_stride,
    padded_size,
    resize,
    to_batch,
    to_levels,
    unpad,
)
from sd_perception_ros.model import Model
from sd_perception_ros.runtimes.choice import choose
from sd_perception_ros.runtimes.cuda_graphs import CudaGraphs
from sd_perception_ros.runtimes.devices import find_device, keep_full_precision, number_format
from sd_perception_ros.runtimes.prepare import prepare, Runnable
from sd_perception_ros.runtimes.sessions import SESSIONS
from sd_perception_ros.tasks.task import Task
from sd_perception_ros.types import Grid, Prediction

Picture = NDArray[np.uint8]


class _View(NamedTuple):
    """How a picture is brought to the network: padded or stretched, and how large."""

    pads: bool
    long_side_px: int


class _Part(NamedTuple):
    """The tasks of one checkpoint. Parts of one encoder and one view share its latent."""

    model: Runnable
    encoder: str
    view: _View

    def sizes(self, height: int, width: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return (height, width) of the resized picture, and of what the network sees."""
        inner = fitted_size(height, width, self.view.long_side_px)
        return inner, padded_size(*inner, self.model.stride) if self.view.pads else inner


class _Answer(NamedTuple):
    """
    What the network says of a batch, still on the device.

    :ivar raw: {task: (B, channels, h, w) float32}; (h, w) is the picture's for a dense task.
    :ivar finite: (tasks,) bool, whether all numbers of a task are.
    """

    raw: dict[str, Tensor]
    finite: Tensor


class Engine:
    """
    One or more loaded models on their device.

    :param loaded: models in float32, or their outlines, and what their checkpoints say of them.
        No two of them have the same task. They are folded in place (`Model.fold`), so that they
        serve and never train.
    :param config: how to run them.
    """

    def __init__(
        self, loaded: Sequence[tuple[Model, CheckpointConfig]], config: EngineConfig
    ) -> None:
        if config.threads:
            torch.set_num_threads(config.threads)
        self.device = find_device(config.device)
        self._choice = choose(config, self.device)
        self.dtype = number_format(config.precision, self.device)
        self.tasks: dict[str, Task] = {}
        self.license = ', '.join(dict.fromkeys(about.license for _, about in loaded))
        self._parts: list[_Part] = []
        trained, served = sum(_parameters(model) for model, _ in loaded), 0
        for model, about in loaded:
            self.tasks |= model.tasks
            view = _View(about.resize == 'pad', config.long_side_px or about.long_side_px)
            model.fold()
            served += _parameters(model)
            runnable, self._choice = prepare(model, self._choice, self.device, self.dtype)
            encoder = runnable.encoder_id() if len(loaded) > 1 else ''
            self._parts.append(_Part(runnable, encoder, view))
        self._size = f'{served / 1e6:.1f} M parameters ({trained / 1e6:.1f} M before folding)'
        self._graphs: CudaGraphs[_Answer] | None = None
        if self.device.type == 'cuda':
            if self.dtype == torch.float32:
                keep_full_precision()
            if config.cuda_graphs:
                self._graphs = CudaGraphs(self._network, self.device)

    @classmethod
    def load(
        cls,
        checkpoint: str = EngineConfig.checkpoint,
        *,
        checkpoints: Mapping[str, str] | None = None,
        tasks: Collection[str] | None = None,
        device: str = EngineConfig.device,
        precision: str = EngineConfig.precision,
        runtime: str = EngineConfig.runtime,
        cuda_graphs: bool = EngineConfig.cuda_graphs,
        long_side_px: int = EngineConfig.long_side_px,
        threads: int = EngineConfig.threads,
    ) -> Engine:
        """
        Load a checkpoint by name, folder or file; the options are those of `EngineConfig`.

        :param checkpoints: {task: checkpoint} of tasks that have a checkpoint of their own.
        :raises ValueError: an option, or a file of the checkpoint, is not what it should be.
        :raises FileNotFoundError: a file of the checkpoint is missing.
        """
        config = EngineConfig(
            checkpoint=checkpoint,
            tasks=list(tasks or ()),
            device=device,
            precision=precision,
            runtime=runtime,
            cuda_graphs=cuda_graphs,
            long_side_px=long_side_px,
            threads=threads,
        )
        return cls.from_config(config, checkpoints)

    @classmethod
    def from_config(
        cls, config: EngineConfig, checkpoints: Mapping[str, str] | None = None
    ) -> Engine:
        """
        Load the checkpoint that `config` names; raises what `load` raises.

        :param checkpoints: {task: checkpoint} of tasks that have a checkpoint of their own.
        """
        # Before a minute of reading weights, and perhaps instead of it.
        choice = choose(config, find_device(config.device))
        load = checkpoint.load_on_meta if choice.runtime in SESSIONS else checkpoint.load
        main, others = config.checkpoint, checkpoints or {}
        opened = {} if config.tasks else {main: open_checkpoint(main)}
        tasks = config.tasks or dict.fromkeys([*opened[main].config.tasks, *others])
        tasks_of: dict[str, list[str]] = {}
        for task in tasks:
            tasks_of.setdefault(others.get(task, main), []).append(task)
        loaded = [load(opened.get(name, name), tasks) for name, tasks in tasks_of.items()]
        return cls(loaded, config)

    def predict(
        self, pictures: Sequence[Picture], tasks: Collection[str] | None = None
    ) -> list[dict[str, Prediction]]:
        """
        Return each picture's predictions by task name, at the picture's own size.

        :param pictures: (H, W, 3) uint8 RGB arrays; those of one size run as one batch.
        :param tasks: the tasks to run; None: all.
        :raises ValueError: not a picture, or an unknown task.
        :raises FloatingPointError: the network's output is not finite.
        :raises torch.OutOfMemoryError: the device is full; its cache has been emptied.
        """
        results: list[dict[str, Prediction]] = [{} for _ in pictures]
        for index, name, raw, grid in self._outputs(pictures, tasks):
            results[index][name] = self.tasks[name].decode(raw, grid)
        return results

    def readout(
        self, pictures: Sequence[Picture], tasks: Collection[str] | None = None
    ) -> list[dict[str, tuple[Tensor, Grid]]]:
        """
        Return each picture's raw outputs by task name, and how they lie on the picture.

        Arguments and errors are those of `predict`, which decodes this.

        :returns: (channels, h, w) float32 on the CPU, at the picture's size for a dense task.
        """
        results: list[dict[str, tuple[Tensor, Grid]]] = [{} for _ in pictures]
        for index, name, raw, grid in self._outputs(pictures, tasks):
            results[index][name] = raw.cpu(), grid
        return results

    def warm_up(self, height: int, width: int) -> None:
        """Run on a black picture, so that the first real frame is not the slow one."""
        for _ in range(3 if self._graphs else 1):  # as it is, recorded, replayed
            # A black picture says nothing about the network's health on real ones.
            with contextlib.suppress(FloatingPointError):
                self.readout([np.zeros((height, width, 3), np.uint8)])

    def summary(self) -> str:
        """Return one line about what runs where."""
        sizes = ', '.join(str(part.view.long_side_px or 'native') for part in self._parts)
        runtime = f'{self._choice.runtime} ({self._choice.why})'
        if self._graphs is not None:
            problem = self._graphs.problem
            runtime += f' (no CUDA graphs: {problem})' if problem else ' with CUDA graphs'
        return (
            f'{", ".join(self.tasks)}: {self._size} on {self.device}, '
            f'{str(self.dtype).removeprefix("torch.")}, {runtime}, long side {sizes} px, '
            f'weights licence: {self.license}'
        )

    def _outputs(
        self, pictures: Sequence[Picture], tasks: Collection[str] | None
    ) -> Iterator[tuple[int, str, Tensor, Grid]]:
        """
        Run pictures: yield the place of one, a task, its raw output on the device, and its grid.

        An output is good until the next one is asked for.
        """
        wanted = tuple(self.tasks if tasks is None else (t for t in self.tasks if t in tasks))
        if unknown := set(tasks or ()) - set(self.tasks):
            raise ValueError(f'unknown tasks {sorted(unknown)}; choose from {list(self.tasks)}')
        by_size: dict[tuple[int, ...], list[int]] = {}
        for index, picture in enumerate(pictures):
            check_rgb(picture)
            by_size.setdefault(picture.shape, []).append(index)
        for (height, width, _), indices in by_size.items():
            for name, raw in self._run([pictures[i] for i in indices], wanted).items():
                grid = self._grid(name, raw, height, width)
                for index, one in zip(indices, raw, strict=True):
                    yield index, name, one, grid

    @torch.inference_mode()
    def _run(self, pictures: list[Picture], tasks: tuple[str, ...]) -> dict[str, Tensor]:
        """Run pictures of one size: {task: (B, channels, h, w) float32 on the device}."""
        try:
            image = to_batch(pictures, self.device)
            answer = (self._graphs or self._network)(image, tasks)
            finite = answer.finite.tolist()
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            raise
        for name, good in zip(answer.raw, finite, strict=True):
            if not good:
                raise FloatingPointError(
                    f'the network gave {name} values that are not finite, at {self.dtype}; '
                    'set precision: fp32, or check the checkpoint'
                )
        return answer.raw

    def _network(self, image: Tensor, tasks: tuple[str, ...]) -> _Answer:
        """Run every model on (B, H, W, 3) uint8; nothing here waits for the device."""
        levels = to_levels(image)
        raw: dict[str, Tensor] = {}
        latents: dict[tuple[str, _View], Tensor] = {}
        for part in self._parts:
            wanted = [task for task in tasks if task in part.model.tasks]
            if wanted:
                raw |= self._run_part(part, levels, wanted, latents)
        # At the network's own size there is less to check; a sum says it in a tenth of the time.
        sums = [output.sum(dtype=torch.float32) for output in raw.values()]
        for part in self._parts:
            inner, seen = part.sizes(*levels.shape[-2:])
            for name, task in part.model.tasks.items():
                if name in raw:
                    output = raw[name].float()
                    if task.dense:
                        output = resize(unpad(output, seen, inner), *levels.shape[-2:])
                    raw[name] = output
        return _Answer(raw, torch.stack(sums).isfinite() if sums else image.new_zeros(0))

    def _run_part(
        self,
        part: _Part,
        levels: Tensor,
        tasks: list[str],
        latents: dict[tuple[str, _View], Tensor],
    ) -> dict[str, Tensor]:
        """
        Run one model, on a latent that is there already if its encoder and view made it.

        :param levels: (B, 3, H, W) 0..255.
        """
        key = (part.encoder, part.view)
        if key not in latents:
            inner, _ = part.sizes(*levels.shape[-2:])
            shown = normalized(resize(levels, *inner))
            if part.view.pads:
                shown = pad_to_stride(shown, part.model.stride)
            shown = shown.to(self.dtype, memory_format=torch.channels_last)
            latents[key] = part.model.encode(shown)
        return part.model.read(latents[key], tasks)

    def _grid(self, name: str, raw: Tensor, height: int, width: int) -> Grid:
        """Return how a raw output lies on its picture."""
        if self.tasks[name].dense:
            return Grid(height, width, 1.0, 1.0)
        part = next(part for part in self._parts if name in part.model.tasks)
        inner, seen = part.sizes(height, width)
        rows, columns = raw.shape[-2:]
        cell_x_px = seen[1] / columns * width / inner[1]
        cell_y_px = seen[0] / rows * height / inner[0]
        return Grid(height, width, cell_x_px, cell_y_px)


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
