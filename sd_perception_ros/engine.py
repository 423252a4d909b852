"""Run a trained model on pictures: the only way in for nodes, command line and evaluation."""

from __future__ import annotations

from collections.abc import Collection, Sequence
import contextlib
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
import torch
from torch import nn, Tensor

from sd_perception_ros import checkpoint
from sd_perception_ros.checkpoint import CheckpointConfig
from sd_perception_ros.config import EngineConfig
from sd_perception_ros.images import (
    check_rgb,
    fitted_size,
    normalized,
    pad_to_stride,
    padded_size,
    resize,
    to_tensor,
    unpad,
)
from sd_perception_ros.model import Model
from sd_perception_ros.tasks.task import Task
from sd_perception_ros.types import Grid, Prediction

PRECISIONS = {'fp32': torch.float32, 'fp16': torch.float16, 'bf16': torch.bfloat16}
Picture = NDArray[np.uint8]


class _View(NamedTuple):
    """How a picture is brought to the network: padded or stretched, and how large."""

    pads: bool
    long_side_px: int


class _Part(NamedTuple):
    """The tasks of one checkpoint. Parts of one encoder and one view share its latent."""

    model: Model
    encoder: str
    view: _View


class Engine:
    """
    One or more loaded models on their device.

    :param loaded: models in float32, and what their checkpoints say of them. No two of them have
        the same task. They are folded in place (`Model.fold`), so that they serve and never train.
    :param config: how to run them.
    """

    def __init__(
        self, loaded: Sequence[tuple[Model, CheckpointConfig]], config: EngineConfig
    ) -> None:
        if config.threads:
            torch.set_num_threads(config.threads)
        self.device = _device(config.device)
        self.dtype = _dtype(config.precision, self.device)
        self.tasks: dict[str, Task] = {}
        self.license = ', '.join(dict.fromkeys(about.license for _, about in loaded))
        self._parts: list[_Part] = []
        self._trained = sum(_parameters(model) for model, _ in loaded)
        for model, about in loaded:
            self.tasks |= model.tasks
            encoder = model.encoder_id() if len(loaded) > 1 else ''
            view = _View(about.resize == 'pad', config.long_side_px or about.long_side_px)
            model.fold()
            model.to(self.device, self.dtype).eval()
            # Measured on a CPU: the encoder takes half the time, the denoiser five sixths.
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            self._parts.append(_Part(model, encoder, view))

    @classmethod
    def load(
        cls,
        checkpoint: str = EngineConfig.checkpoint,
        *,
        checkpoints: Collection[str] = (),
        tasks: Collection[str] | None = None,
        device: str = EngineConfig.device,
        precision: str = EngineConfig.precision,
        runtime: str = EngineConfig.runtime,
        long_side_px: int = EngineConfig.long_side_px,
        threads: int = EngineConfig.threads,
    ) -> Engine:
        """
        Load a checkpoint by name, folder or file; the options are those of `EngineConfig`.

        :raises ValueError: an option, or a file of the checkpoint, is not what it should be.
        :raises FileNotFoundError: a file of the checkpoint is missing.
        """
        return cls.from_config(
            EngineConfig(
                checkpoint=checkpoint,
                checkpoints=list(checkpoints),
                tasks=list(tasks or ()),
                device=device,
                precision=precision,
                runtime=runtime,
                long_side_px=long_side_px,
                threads=threads,
            )
        )

    @classmethod
    def from_config(cls, config: EngineConfig) -> Engine:
        """Load the checkpoints that `config` names; raises what `load` raises."""
        _device(config.device)  # before a minute of reading weights
        others = config.checkpoint_of()
        chosen = config.tasks or list(
            dict.fromkeys([*checkpoint.tasks_of(config.checkpoint), *others])
        )
        owners: dict[str, list[str]] = {}
        for task in chosen:
            owners.setdefault(others.get(task, config.checkpoint), []).append(task)
        return cls([checkpoint.load(name, tasks) for name, tasks in owners.items()], config)

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
        return [
            {name: self.tasks[name].decode(*output) for name, output in outputs.items()}
            for outputs in self.readout(pictures, tasks)
        ]

    def readout(
        self, pictures: Sequence[Picture], tasks: Collection[str] | None = None
    ) -> list[dict[str, tuple[Tensor, Grid]]]:
        """
        Return each picture's raw outputs by task name, and how they lie on the picture.

        Arguments and errors are those of `predict`, which decodes this.

        :returns: (channels, h, w) float32 on the CPU, at the picture's size for a dense task.
        """
        wanted = list(self.tasks) if tasks is None else [t for t in self.tasks if t in tasks]
        if unknown := set(tasks or ()) - set(self.tasks):
            raise ValueError(f'unknown tasks {sorted(unknown)}; choose from {list(self.tasks)}')
        by_size: dict[tuple[int, ...], list[int]] = {}
        for index, picture in enumerate(pictures):
            check_rgb(picture)
            by_size.setdefault(picture.shape, []).append(index)
        results: list[dict[str, tuple[Tensor, Grid]]] = [{} for _ in pictures]
        for indices in by_size.values():
            for name, (raw, grid) in self._run([pictures[i] for i in indices], wanted).items():
                for index, one in zip(indices, raw, strict=True):
                    results[index][name] = one, grid
        return results

    def warm_up(self, height: int, width: int) -> None:
        """Run once on a black picture, so that the first real frame is not the slow one."""
        # A black picture says nothing about the network's health on real ones.
        with contextlib.suppress(FloatingPointError):
            self.readout([np.zeros((height, width, 3), np.uint8)])

    def summary(self) -> str:
        """Return one line about what runs where."""
        served = sum(_parameters(part.model) for part in self._parts)
        sizes = ', '.join(str(part.view.long_side_px or 'native') for part in self._parts)
        return (
            f'{", ".join(self.tasks)}: {served / 1e6:.1f} M parameters '
            f'({self._trained / 1e6:.1f} M before folding) on {self.device}, '
            f'{str(self.dtype).removeprefix("torch.")}, long side {sizes} px, '
            f'weights licence: {self.license}'
        )

    @torch.inference_mode()
    def _run(self, pictures: list[Picture], tasks: list[str]) -> dict[str, tuple[Tensor, Grid]]:
        """Run pictures of one size: {task: (B, channels, h, w) and its grid}."""
        try:
            image = torch.cat([to_tensor(picture) for picture in pictures]).to(self.device)
            outputs: dict[str, tuple[Tensor, Grid]] = {}
            latents: dict[tuple[str, _View], Tensor] = {}
            for part in self._parts:
                wanted = [task for task in tasks if task in part.model.tasks]
                if wanted:
                    outputs |= self._run_part(part, image, wanted, latents)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            raise
        return outputs

    def _run_part(
        self,
        part: _Part,
        image: Tensor,
        tasks: list[str],
        latents: dict[tuple[str, _View], Tensor],
    ) -> dict[str, tuple[Tensor, Grid]]:
        """
        Run one model, on a latent that is there already if its encoder and view made it.

        :param image: (B, 3, H, W) 0..255.
        """
        height, width = image.shape[-2:]
        inner = fitted_size(height, width, part.view.long_side_px)
        stride = part.model.stride
        seen = padded_size(*inner, stride) if part.view.pads else inner
        key = (part.encoder, part.view)
        if key not in latents:
            shown = normalized(resize(image, *inner))
            if part.view.pads:
                shown = pad_to_stride(shown, stride)
            shown = shown.to(self.dtype, memory_format=torch.channels_last)
            latents[key] = part.model.encode(shown)
        outputs = {}
        for name, output in part.model.read(latents[key], tasks).items():
            if not output.isfinite().all():  # before it grows to the picture's size
                raise FloatingPointError(
                    f'the network gave {name} values that are not finite, at {self.dtype}; '
                    'set precision: fp32, or check the checkpoint'
                )
            raw = output.float()
            if part.model.tasks[name].dense:
                raw = resize(unpad(raw, seen, inner), height, width)
                grid = Grid(height, width, 1.0, 1.0)
            else:
                rows, columns = raw.shape[-2:]
                cell_x_px = seen[1] / columns * width / inner[1]
                cell_y_px = seen[0] / rows * height / inner[0]
                grid = Grid(height, width, cell_x_px, cell_y_px)
            outputs[name] = raw.cpu(), grid
        return outputs


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _device(name: str) -> torch.device:
    if name == 'auto':
        return torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"expected a device such as cpu or cuda:0, got '{name}'") from None
    if device.type == 'cuda' and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device '{name}' is not here: torch {torch.__version__} sees "
            f'{torch.cuda.device_count()} CUDA devices; use auto or cpu, or install a torch '
            'built for this machine'
        )
    if device.type not in ('cpu', 'cuda'):
        raise ValueError(f"expected a device such as cpu or cuda:0, got '{name}'")
    return device


def _dtype(precision: str, device: torch.device) -> torch.dtype:
    if precision == 'auto':
        return torch.bfloat16 if device.type == 'cuda' else torch.float32
    return PRECISIONS[precision]
