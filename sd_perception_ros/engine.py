"""Run trained models on pictures: the one inference path of node, commands and evaluation."""

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
from sd_perception_ros.images import check_rgb, to_batch, to_levels
from sd_perception_ros.model import Model
from sd_perception_ros.runtimes.choice import choose
from sd_perception_ros.runtimes.cuda_graphs import CudaGraphs
from sd_perception_ros.runtimes.devices import find_device, keep_full_precision, number_format
from sd_perception_ros.runtimes.prepare import prepare
from sd_perception_ros.runtimes.served_model import Resizing, ServedModel
from sd_perception_ros.runtimes.sessions import SESSIONS
from sd_perception_ros.tasks.task import Task
from sd_perception_ros.types import Grid, Prediction

Picture = NDArray[np.uint8]


class _Outputs(NamedTuple):
    """
    The outputs of the network for a batch, on the device.

    :ivar raw: {task: (B, channels, h, w) float32}; (h, w) is the picture's for a dense task.
    :ivar is_finite: (tasks,) bool: no NaN or infinity in the output of a task.
    """

    raw: dict[str, Tensor]
    is_finite: Tensor


class Engine:
    """
    One or more loaded models on their device.

    :param loaded: models in float32, or on the meta device (`load_on_meta`), with the options of
        their checkpoints. No two of them have the same task. They are folded in place
        (`Model.fold`) and cannot be trained afterwards.
    :param config: device, precision and runtime.
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
        self.license = ', '.join(dict.fromkeys(options.license for _, options in loaded))
        self._models: list[ServedModel] = []
        trained, served = sum(_parameters(model) for model, _ in loaded), 0
        for model, options in loaded:
            self.tasks |= model.tasks
            long_side_px = config.long_side_px or options.long_side_px
            model.fold()
            served += _parameters(model)
            runnable, self._choice = prepare(model, self._choice, self.device, self.dtype)
            encoder_id = runnable.encoder_id() if len(loaded) > 1 else ''
            resizing = Resizing(options.resize == 'pad', long_side_px)
            self._models.append(ServedModel(runnable, encoder_id, resizing, self.dtype))
        self._size = f'{served / 1e6:.1f} M parameters ({trained / 1e6:.1f} M before folding)'
        self._cuda_graphs: CudaGraphs[_Outputs] | None = None
        if self.device.type == 'cuda':
            if self.dtype == torch.float32:
                keep_full_precision()
            if config.cuda_graphs:
                self._cuda_graphs = CudaGraphs(self._network, self.device)

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
        # First: an impossible choice is refused before weights are read.
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
        for index, name, raw, grid in self._run(pictures, tasks):
            results[index][name] = self.tasks[name].decode(raw, grid)
        return results

    def predict_raw(
        self, pictures: Sequence[Picture], tasks: Collection[str] | None = None
    ) -> list[dict[str, tuple[Tensor, Grid]]]:
        """
        Return each picture's raw outputs by task name, before `Task.decode`.

        Arguments and errors are those of `predict`.

        :returns: output (channels, h, w) float32 on the CPU, at the picture's size for a dense
            task, and where its cells lie on the picture.
        """
        results: list[dict[str, tuple[Tensor, Grid]]] = [{} for _ in pictures]
        for index, name, raw, grid in self._run(pictures, tasks):
            results[index][name] = raw.cpu(), grid
        return results

    def warm_up(self, height: int, width: int) -> None:
        """Run on a black picture, so that the first frame is as fast as the next ones."""
        # A CUDA graph runs as it is, is recorded, is replayed.
        for _ in range(3 if self._cuda_graphs else 1):
            with contextlib.suppress(FloatingPointError):  # on black, no fault of the network
                self.predict_raw([np.zeros((height, width, 3), np.uint8)])

    def summary(self) -> str:
        """Return one line for the log: tasks, size, device, number format, runtime, licence."""
        sizes = ', '.join(str(one.resizing.long_side_px or 'native') for one in self._models)
        runtime = f'{self._choice.runtime} ({self._choice.why})'
        if self._cuda_graphs is not None:
            problem = self._cuda_graphs.problem
            runtime += f' (no CUDA graphs: {problem})' if problem else ' with CUDA graphs'
        return (
            f'{", ".join(self.tasks)}: {self._size} on {self.device}, '
            f'{str(self.dtype).removeprefix("torch.")}, {runtime}, long side {sizes} px, '
            f'weights licence: {self.license}'
        )

    def _run(
        self, pictures: Sequence[Picture], tasks: Collection[str] | None
    ) -> Iterator[tuple[int, str, Tensor, Grid]]:
        """
        Yield index of the picture, task name, raw output (channels, h, w) on the device, and grid.

        The buffer of an output may be reused when the next one is produced.
        """
        wanted = tuple(self.tasks if tasks is None else (t for t in self.tasks if t in tasks))
        if unknown := set(tasks or ()) - set(self.tasks):
            raise ValueError(f'unknown tasks {sorted(unknown)}; choose from {list(self.tasks)}')
        by_size: dict[tuple[int, ...], list[int]] = {}
        for index, picture in enumerate(pictures):
            check_rgb(picture)
            by_size.setdefault(picture.shape, []).append(index)
        for (height, width, _), indices in by_size.items():
            for name, raw in self._run_batch([pictures[i] for i in indices], wanted).items():
                grid = self._model_of(name).grid(name, raw, height, width)
                for index, output in zip(indices, raw, strict=True):
                    yield index, name, output, grid

    @torch.inference_mode()
    def _run_batch(self, pictures: list[Picture], tasks: tuple[str, ...]) -> dict[str, Tensor]:
        """Run pictures of one size: {task: (B, channels, h, w) float32 on the device}."""
        try:
            image = to_batch(pictures, self.device)
            outputs = (self._cuda_graphs or self._network)(image, tasks)
            are_finite = outputs.is_finite.tolist()
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            raise
        for name, is_finite in zip(outputs.raw, are_finite, strict=True):
            if not is_finite:
                raise FloatingPointError(
                    f'the network gave {name} values that are not finite, at {self.dtype}; '
                    'set precision: fp32, or check the checkpoint'
                )
        return outputs.raw

    def _network(self, image: Tensor, tasks: tuple[str, ...]) -> _Outputs:
        """Run every model on (B, H, W, 3) uint8; nothing here waits for the device."""
        levels = to_levels(image)
        raw: dict[str, Tensor] = {}
        latents: dict[tuple[str, Resizing], Tensor] = {}
        for served in self._models:
            wanted = [task for task in tasks if task in served.model.tasks]
            if wanted:
                raw |= served.run(levels, wanted, latents)
        # Checked at the network's size, which is smaller; a sum takes a tenth of the time.
        sums = [output.sum(dtype=torch.float32) for output in raw.values()]
        size = levels.shape[-2:]
        raw = {n: self._model_of(n).at_picture_size(n, r, *size) for n, r in raw.items()}
        return _Outputs(raw, torch.stack(sums).isfinite() if sums else image.new_zeros(0))

    def _model_of(self, task: str) -> ServedModel:
        return next(served for served in self._models if task in served.model.tasks)


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
