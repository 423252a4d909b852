"""Run trained models on images: the only path of inference, for node, commands and evaluation."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
import contextlib
from dataclasses import replace
import logging
import time
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
import torch
from torch import nn, Tensor

from sd_perception_ros.checkpoint import checkpoint
from sd_perception_ros.checkpoint.config_file import CheckpointConfig, open_checkpoint
from sd_perception_ros.checkpoint.licenses import commercial_use, is_restricted, join_licenses
from sd_perception_ros.config import EngineConfig
from sd_perception_ros.images import check_rgb, to_batch, to_levels
from sd_perception_ros.model import Model
from sd_perception_ros.people.boxes import Box
from sd_perception_ros.people.crops import second_look_size
from sd_perception_ros.people.options import DETECTIONS, HUMAN_POSE, TopDownOptions
from sd_perception_ros.people.top_down import tasks_for_boxes, TopDown
from sd_perception_ros.runtimes.choice import choose, serves_without_torch
from sd_perception_ros.runtimes.cuda_graphs import CudaGraphs
from sd_perception_ros.runtimes.devices import find_device, keep_full_precision, number_format
from sd_perception_ros.runtimes.prepare import GpuModel, prepare
from sd_perception_ros.runtimes.served_model import Resizing, ServedModel
from sd_perception_ros.tasks.person_pose import PersonPose
from sd_perception_ros.tasks.task import Task
from sd_perception_ros.types import Grid, Prediction

LOGGER = logging.getLogger(__name__)
ImageArray = NDArray[np.uint8]
_SECOND_LOOK_PX = 256  # height of a crop for a model without a fixed size


class _Outputs(NamedTuple):
    """
    The outputs of the network for a batch, on the device.

    :ivar raw: {task: (B, channels, h, w) float32}; (h, w): for a dense task the image size.
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
        self.dtype = number_format(config.precision, self.device, self._choice.runtime)
        self._image_tasks: dict[str, Task] = {}
        self._top_down: TopDown | None = None
        self.license = join_licenses(options.license for _, options in loaded)
        self._models: list[ServedModel] = []
        trained, served = sum(_parameters(model) for model, _ in loaded), 0
        for model, options in loaded:
            self._image_tasks |= model.tasks
            long_side_px = config.long_side_px or options.long_side_px
            model.fold()
            served += _parameters(model)
            runnable, self._choice = prepare(model, self._choice, self.device, self.dtype)
            encoder_id = runnable.encoder_id() if len(loaded) > 1 else ''
            resizing = Resizing(options.resize == 'pad', long_side_px)
            self._models.append(ServedModel(runnable, encoder_id, resizing, self.dtype))
        self._resizings = [model.resizing for model in self._models]
        self.tasks = dict(self._image_tasks)
        prepared = [served.model for served in self._models]
        self._gpu_models = [model for model in prepared if isinstance(model, GpuModel)]
        self._size = f'{served / 1e6:.1f} M parameters ({trained / 1e6:.1f} M before folding)'
        self._cuda_graphs: CudaGraphs[_Outputs] | None = None
        if self.device.type == 'cuda':
            if self.dtype == torch.float32:
                keep_full_precision()
            if config.cuda_graphs and all(model.is_recordable for model in self._gpu_models):
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
        accept_license: bool = EngineConfig.accept_license,
        top_down: TopDownOptions | None = None,
    ) -> Engine:
        """
        Load a checkpoint by name, folder or file; the options are those of `EngineConfig`.

        :param checkpoints: {task: checkpoint} of tasks with a separate checkpoint.
        :param top_down: options of human_pose from crops of people; None: the defaults.
        :raises ValueError: a wrong option, or a damaged or unsuitable file of the checkpoint.
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
            accept_license=accept_license,
        )
        return cls.from_config(config, checkpoints, top_down)

    @classmethod
    def from_config(
        cls,
        config: EngineConfig,
        checkpoints: Mapping[str, str] | None = None,
        top_down: TopDownOptions | None = None,
    ) -> Engine:
        """
        Load the checkpoint of `config`; errors as for `load`.

        :param checkpoints: {task: checkpoint} of tasks with a separate checkpoint.
        :param top_down: options of human_pose from crops of people; None: the defaults.
        """
        top_down = top_down or TopDownOptions()
        # First: an impossible choice is refused before weights are read.
        device = find_device(config.device)
        only_graphs = serves_without_torch(choose(config, device), device)
        load = checkpoint.load_on_meta if only_graphs else checkpoint.load
        main, others = config.checkpoint, checkpoints or {}
        opened = {} if config.tasks else {main: open_checkpoint(main)}
        tasks = config.tasks or dict.fromkeys([*opened[main].config.tasks, *others])
        tasks_of: dict[str, list[str]] = {}
        for task in tasks:
            tasks_of.setdefault(others.get(task, main), []).append(task)
        main_tasks = tasks_of.pop(main, [])
        loaded = [load(name, own_tasks) for name, own_tasks in tasks_of.items()]
        if any(model.reads_crops for model, _ in loaded):
            # Boxes around people are made from tasks of the main checkpoint, also its human_pose.
            opened = opened or {main: open_checkpoint(main)}
            there = [task for m, _ in loaded if not m.reads_crops for task in m.tasks]
            in_main = [task for task in opened[main].config.tasks if task not in there]
            needed = tasks_for_boxes(top_down.boxes, [*in_main, *there])
            main_tasks += [t for t in needed if t in in_main and t not in main_tasks]
        if main_tasks:
            loaded.insert(0, load(opened.get(main, main), main_tasks))
        engine = cls([one for one in loaded if not one[0].reads_crops], config)
        engine._use_crops([one for one in loaded if one[0].reads_crops], config, top_down)
        engine.tasks = {task: engine.tasks[task] for task in tasks}
        if not config.accept_license:
            _warn_of_licenses(options for _, options in loaded)
        return engine

    def _use_crops(
        self,
        loaded: Sequence[tuple[Model, CheckpointConfig]],
        config: EngineConfig,
        options: TopDownOptions,
    ) -> None:
        """
        Predict human_pose from a crop of each person (top-down).

        :param loaded: the model for crops; empty: a second look, if `options` have it.
        """
        reader = self
        if loaded:
            crops = [(m, replace(about, resize='exact', long_side_px=0)) for m, about in loaded]
            reader = Engine(crops, replace(config, long_side_px=0))
            self.license = join_licenses((self.license, reader.license))
        elif not options.second_look or HUMAN_POSE not in self.tasks:
            return
        self.tasks |= reader.tasks
        task = reader.tasks[HUMAN_POSE]
        if isinstance(task, PersonPose):
            height_px = task.crop_height_px
        else:
            side_px = self._model_of(HUMAN_POSE).resizing.long_side_px or _SECOND_LOOK_PX
            height_px, _ = second_look_size(side_px)
        self._top_down = TopDown(
            options,
            task,
            reader._human_pose,
            self._image_tasks,
            height_px,
            reader._human_pose_px,
        )
        self._reader = reader

    @property
    def commercial_use(self) -> str:
        """Whether the licences of the weights allow commercial use, or 'not known'."""
        return commercial_use(self.license)

    @property
    def needs_boxes(self) -> bool:
        """Whether `predict` needs boxes around people for human_pose."""
        return self._top_down is not None and self._top_down.source == DETECTIONS

    def predict(
        self,
        images: Sequence[ImageArray],
        tasks: Collection[str] | None = None,
        boxes: Sequence[Sequence[Box]] | None = None,
    ) -> list[dict[str, Prediction]]:
        """
        Return the predictions of each image by task name, at the size of the image.

        :param images: (H, W, 3) uint8 RGB arrays; those of one size run as one batch.
        :param tasks: the tasks to run; None: all.
        :param boxes: boxes around the people of each image, for human_pose from crops; None:
            made from the predictions of other tasks.
        :raises ValueError: a wrong type of image, an unknown task, or missing boxes.
        :raises FloatingPointError: the network's output is not finite.
        :raises torch.OutOfMemoryError: the device is full; its cache has been emptied.
        """
        wanted = self._wanted(tasks)
        results: list[dict[str, Prediction]] = [{} for _ in images]
        top_down = self._top_down if HUMAN_POSE in wanted else None
        first = set(wanted)
        if top_down is not None:
            first = first - {HUMAN_POSE} | set(top_down.needs)
        for index, name, raw, grid in self._run(images, first):
            results[index][name] = self._image_tasks[name].decode(raw, grid)
        if top_down is None:
            return results
        poses = top_down.poses(images, results, boxes)
        return [
            {t: people if t == HUMAN_POSE else result[t] for t in wanted}
            for result, people in zip(results, poses, strict=True)
        ]

    def predict_raw(
        self, images: Sequence[ImageArray], tasks: Collection[str] | None = None
    ) -> list[dict[str, tuple[Tensor, Grid]]]:
        """
        Return the raw outputs of each image by task name, before `Task.decode`.

        Arguments and errors are those of `predict`. A human_pose from crops has no raw
        output for whole images, and is left out.

        :returns: output (channels, h, w) float32 on the CPU, at the size of the image for a dense
            task, and its grid on the image.
        """
        results: list[dict[str, tuple[Tensor, Grid]]] = [{} for _ in images]
        wanted = [task for task in self._wanted(tasks) if task in self._image_tasks]
        for index, name, raw, grid in self._run(images, wanted):
            results[index][name] = raw.cpu(), grid
        return results

    @property
    def dry_size(self) -> tuple[int, int]:
        """(height, width) of a 4:3 image of the network's size; 480 x 640 if it has none."""
        sides = [
            model.resizing.long_side_px for model in self._models if model.resizing.long_side_px
        ]
        long_side_px = max(sides, default=640)
        return max(round(long_side_px * 0.75), 1), long_side_px

    def warm_up(self, height: int, width: int, count: int = 1) -> None:
        """
        Run on noise: errors occur now, and the first frame is not slow.

        :param count: images in the batch.
        :raises FloatingPointError: the network's output is not finite. Other errors are those of
            torch or of the runtime.
        """
        # Noise: a head that stretches its output has no range on an image of one colour.
        images = list(_noise(count, height, width))
        with contextlib.ExitStack() as stack:
            for model in self._all_gpu_models():
                stack.enter_context(model.without_builds())
            # With CUDA graphs, the first call runs plainly, the second records, the third replays.
            for _ in range(3 if self._cuda_graphs else 1):
                for _, name, raw, grid in self._run(images, self._image_tasks):
                    self._image_tasks[name].decode(raw, grid)
                if self._top_down is not None:
                    crops = list(_noise(1, self._top_down.height, self._top_down.width))
                    self._reader._human_pose(crops)

    def wait_for_engines(self, timeout_s: float | None = None) -> bool:
        """
        Wait for the engines that `runtime` builds in the background while torch serves.

        The first image of a size in `predict` requests them; `warm_up` does not.

        :returns: whether all of them are finished or have failed.
        """
        end = None if timeout_s is None else time.monotonic() + timeout_s
        return all(
            model.wait(None if end is None else max(end - time.monotonic(), 0))
            for model in self._all_gpu_models()
        )

    def long_side_of(self, image_px: int) -> int:
        """Return the longer side of the network's input for that of an image, in pixels."""
        sides = [one.resizing.long_side_px for one in self._models]
        return max((side or image_px for side in sides), default=image_px)

    def limit_long_side(self, long_side_px: int) -> None:
        """
        Let images enter the network smaller than they would, to save memory.

        Predictions keep the image's size. Crops of people keep theirs.

        :param long_side_px: largest longer side of the network's input; 0: no limit.
        """
        self._models = [
            one._replace(
                resizing=resizing._replace(
                    long_side_px=min(resizing.long_side_px or long_side_px, long_side_px)
                    if long_side_px
                    else resizing.long_side_px
                )
            )
            for one, resizing in zip(self._models, self._resizings, strict=True)
        ]
        if self._cuda_graphs is not None:  # a recording has its size
            self._cuda_graphs = CudaGraphs(self._network, self.device)

    def summary(self) -> str:
        """Return one line for the log: tasks, size, device, number format, runtime, licence."""
        sizes = ', '.join(str(model.resizing.long_side_px or 'native') for model in self._models)
        runtime = f'{self._choice.runtime} ({self._choice.why})'
        if self._gpu_models:
            runtime += f' ({"; ".join(dict.fromkeys(m.state() for m in self._gpu_models))})'
        if self._cuda_graphs is not None:
            problem = self._cuda_graphs.problem
            runtime += f' (no CUDA graphs: {problem})' if problem else ' with CUDA graphs'
        people = ''
        if self._top_down is not None:
            size = '' if self._reader is self else f' ({self._reader._size})'
            people = (
                f'people in crops of {self._top_down.width} x {self._top_down.height} px{size}, '
                f'boxes from {self._top_down.source}, '
            )
        return (
            f'{", ".join(self.tasks)}: {self._size} on {self.device}, '
            f'{str(self.dtype).removeprefix("torch.")}, {runtime}, long side {sizes} px, '
            f'{people}weights licence: {self.license}'
        )

    def _wanted(self, tasks: Collection[str] | None) -> tuple[str, ...]:
        """Return the tasks to run, in the order of `tasks`; None: all."""
        if unknown := set(tasks or ()) - set(self.tasks):
            raise ValueError(f'unknown tasks {sorted(unknown)}; choose from {list(self.tasks)}')
        return tuple(self.tasks if tasks is None else (t for t in self.tasks if t in tasks))

    def _human_pose(self, crops: Sequence[ImageArray]) -> list[tuple[Tensor, Grid]]:
        """
        Return the raw output of human_pose for crops of one size, on the device.

        It is one batch, so that no buffer is reused between its outputs.
        """
        return [(raw, grid) for _, _, raw, grid in self._run(crops, [HUMAN_POSE])]

    def _human_pose_px(self, height: int, width: int) -> int:
        """Return the pixels that the network of human_pose reads for an image of this size."""
        _, (rows, columns) = self._model_of(HUMAN_POSE).sizes(height, width)
        return rows * columns

    def _run(
        self, images: Sequence[ImageArray], tasks: Collection[str]
    ) -> Iterator[tuple[int, str, Tensor, Grid]]:
        """
        Yield index of the image, task name, raw output (channels, h, w) on the device, and grid.

        The buffer of an output may be reused when the next one is produced.
        """
        wanted = tuple(task for task in self._image_tasks if task in tasks)
        by_size: dict[tuple[int, ...], list[int]] = {}
        for index, image in enumerate(images):
            check_rgb(image)
            if wanted:
                by_size.setdefault(image.shape, []).append(index)
        for (height, width, _), indices in by_size.items():
            for name, raw in self._run_batch([images[i] for i in indices], wanted).items():
                grid = self._model_of(name).grid(name, raw, height, width)
                for index, output in zip(indices, raw, strict=True):
                    yield index, name, output, grid

    @torch.inference_mode()
    def _run_batch(self, images: list[ImageArray], tasks: tuple[str, ...]) -> dict[str, Tensor]:
        """Run images of one size: {task: (B, channels, h, w) float32 on the device}."""
        try:
            changed = [model.use_finished() for model in self._gpu_models]
            if any(changed) and self._cuda_graphs is not None:
                self._cuda_graphs.clear()
            image = to_batch(images, self.device)
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
        raw = {n: self._model_of(n).at_image_size(n, r, *size) for n, r in raw.items()}
        return _Outputs(raw, torch.stack(sums).isfinite() if sums else image.new_zeros(0))

    def _all_gpu_models(self) -> list[GpuModel]:
        if self._top_down is None or self._reader is self:
            return self._gpu_models
        return [*self._gpu_models, *self._reader._gpu_models]

    def _model_of(self, task: str) -> ServedModel:
        return next(served for served in self._models if task in served.model.tasks)


def _warn_of_licenses(configs: Iterable[CheckpointConfig]) -> None:
    licenses = dict.fromkeys((config.license, config.license_source) for config in configs)
    for name, source in licenses:
        if is_restricted(name):
            LOGGER.warning(
                'the licence of the weights excludes commercial use: %s%s; if your use complies, '
                'set accept_license: true to silence this warning',
                name,
                f' ({source})' if source else '',
            )


def _noise(count: int, height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), np.uint8)


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
