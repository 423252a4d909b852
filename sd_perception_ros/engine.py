"""Run a trained model on pictures: the only way in for nodes, command line and evaluation."""

from __future__ import annotations

from collections.abc import Collection, Sequence
import contextlib

import numpy as np
from numpy.typing import NDArray
import torch
from torch import Tensor

from sd_perception_ros import checkpoint
from sd_perception_ros.checkpoint import CheckpointConfig
from sd_perception_ros.config import EngineConfig
from sd_perception_ros.images import (
    check_rgb,
    fitted_size,
    normalized,
    pad_to_stride,
    resize,
    to_tensor,
    unpad,
)
from sd_perception_ros.model import Model
from sd_perception_ros.types import Prediction

PRECISIONS = {'fp32': torch.float32, 'fp16': torch.float16, 'bf16': torch.bfloat16}
Picture = NDArray[np.uint8]


class Engine:
    """
    A loaded model on its device.

    :param model: in float32, ready to serve.
    :param checkpoint_config: what the checkpoint says about it.
    :param config: how to run it.
    """

    def __init__(
        self, model: Model, checkpoint_config: CheckpointConfig, config: EngineConfig
    ) -> None:
        if config.threads:
            torch.set_num_threads(config.threads)
        self.device = _device(config.device)
        self.dtype = _dtype(config.precision, self.device)
        self.checkpoint_config = checkpoint_config
        self.long_side_px = config.long_side_px or checkpoint_config.long_side_px
        self.pads = checkpoint_config.resize == 'pad'
        self.tasks = model.tasks
        self._model = model.to(self.device, self.dtype).eval()

    @classmethod
    def load(
        cls,
        checkpoint: str = EngineConfig.checkpoint,
        *,
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
        """Load the checkpoint that `config` names; raises what `load` raises."""
        _device(config.device)  # before a minute of reading weights
        return cls(*checkpoint.load(config.checkpoint, config.tasks), config)

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
            {name: self.tasks[name].decode(raw) for name, raw in readout.items()}
            for readout in self.readout(pictures, tasks)
        ]

    def readout(
        self, pictures: Sequence[Picture], tasks: Collection[str] | None = None
    ) -> list[dict[str, Tensor]]:
        """
        Return each picture's raw output by task name, (channels, H, W) float32 on the CPU.

        Arguments and errors are those of `predict`, which decodes this.
        """
        wanted = list(self.tasks) if tasks is None else [t for t in self.tasks if t in tasks]
        if unknown := set(tasks or ()) - set(self.tasks):
            raise ValueError(f'unknown tasks {sorted(unknown)}; choose from {list(self.tasks)}')
        by_size: dict[tuple[int, ...], list[int]] = {}
        for index, picture in enumerate(pictures):
            check_rgb(picture)
            by_size.setdefault(picture.shape, []).append(index)
        results: list[dict[str, Tensor]] = [{} for _ in pictures]
        for indices in by_size.values():
            for name, raw in self._run([pictures[i] for i in indices], wanted).items():
                for index, one in zip(indices, raw, strict=True):
                    results[index][name] = one
        return results

    def warm_up(self, height: int, width: int) -> None:
        """Run once on a black picture, so that the first real frame is not the slow one."""
        # A black picture says nothing about the network's health on real ones.
        with contextlib.suppress(FloatingPointError):
            self.readout([np.zeros((height, width, 3), np.uint8)])

    def summary(self) -> str:
        """Return one line about what runs where."""
        parameters = sum(p.numel() for p in self._model.parameters())
        return (
            f'{", ".join(self.tasks)}: {parameters / 1e6:.1f} M parameters on {self.device}, '
            f'{str(self.dtype).removeprefix("torch.")}, long side {self.long_side_px or "native"}'
            f' px, weights licence: {self.checkpoint_config.license}'
        )

    @torch.inference_mode()
    def _run(self, pictures: list[Picture], tasks: list[str]) -> dict[str, Tensor]:
        """Run pictures of one size through the network: {task: (B, channels, H, W)}."""
        height, width = pictures[0].shape[:2]
        inner = fitted_size(height, width, self.long_side_px)
        try:
            image = torch.cat([to_tensor(picture) for picture in pictures]).to(self.device)
            image = normalized(resize(image, *inner))
            if self.pads:
                image = pad_to_stride(image, self._model.stride)
            seen = (image.shape[-2], image.shape[-1])
            output = self._model(image.to(self.dtype), tasks)
            raw = {name: value.float() for name, value in output.items()}
            if self.pads:
                raw = {name: unpad(value, seen, inner) for name, value in raw.items()}
            raw = {name: resize(value, height, width).cpu() for name, value in raw.items()}
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            raise
        for name, value in raw.items():
            if not value.isfinite().all():
                raise FloatingPointError(
                    f'the network gave {name} values that are not finite, at {self.dtype}; '
                    'set precision: fp32, or check the checkpoint'
                )
        return raw


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
