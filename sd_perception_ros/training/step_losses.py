"""The losses of one training step, kept on the device until they are read."""

from __future__ import annotations

from collections.abc import Mapping
import math
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor


class StepLosses:
    """
    Collects the losses of the slices of a step, and checks that they are finite.

    :param check_gradients: whether the norm of the gradients must be finite, too.
    :param check_early: check before the weights are updated. Otherwise `read` checks,
        without waiting for a GPU: the weights are invalid by then, but not saved yet.
    """

    def __init__(self, step: int, check_gradients: bool, check_early: bool) -> None:
        self.step = step
        self.check_gradients = check_gradients
        self.check_early = check_early
        self.names: list[str] = []
        self.slices: list[Tensor] = []  # (losses,) for each slice of the batch
        self.norms: list[Tensor] = []
        self.values = torch.empty(0)

    def add(self, losses: Mapping[str, Tensor], norm: Tensor | None) -> None:
        """
        Add the losses of a slice, and the norm of the gradients after the last one.

        :raises FloatingPointError: with `check_early`, if one of them is not finite.
        """
        self.names = list(losses)
        self.slices.append(torch.stack([loss.detach() for loss in losses.values()]))
        if norm is not None and self.check_gradients:
            # FSDP returns a distributed tensor.
            norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
            self.norms.append(norm.detach())
        if self.check_early:
            self._check(self.slices[-1].tolist(), [norm.item() for norm in self.norms])

    def reduce(self, accelerator: Any) -> None:
        """Average over slices and processes."""
        means = accelerator.reduce(torch.stack(self.slices).mean(0), 'mean')
        self.values = torch.cat([means, *(norm.to(means).view(1) for norm in self.norms)])

    def read(self) -> tuple[int, dict[str, float]]:
        """
        Copy the averages from the device: the number of steps done, and the losses by name.

        :raises FloatingPointError: a loss or the norm of the gradients is not finite.
        """
        values = self.values.tolist()
        count = len(self.names)
        self._check(values[:count], values[count:])
        return self.step + 1, dict(zip(self.names, values, strict=False))

    def _check(self, losses: list[float], norms: list[float]) -> None:
        checked = [('the loss', sum(losses)), *(('the gradient norm', norm) for norm in norms)]
        for name, value in checked:
            if not math.isfinite(value):
                raise FloatingPointError(
                    f'step {self.step}: {name} is {value}; the last saved state is good: resume '
                    'with a lower --learning-rate. Or look for broken frames (data inspect '
                    '--read 0) and train without them into another --out'
                )
