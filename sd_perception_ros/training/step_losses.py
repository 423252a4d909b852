"""What one training step reports, without making the device wait for it."""

from __future__ import annotations

from collections.abc import Mapping
import math
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor


class StepLosses:
    """
    The losses of one step, on the device until somebody reads them.

    :param checks_gradients: whether a norm must be finite.
    :param at_once: check before the weights move. A GPU that checks later does not wait: its
        weights are spoilt by then, but no state of them was saved.
    """

    def __init__(self, step: int, checks_gradients: bool, at_once: bool) -> None:
        self.step = step
        self.checks_gradients = checks_gradients
        self.at_once = at_once
        self.names: list[str] = []
        self.parts: list[Tensor] = []  # of the step's pictures, (losses,) each
        self.norms: list[Tensor] = []
        self.values = torch.empty(0)

    def add(self, losses: Mapping[str, Tensor], norm: Tensor | None) -> None:
        """
        Note the losses of some of the step's pictures, and the norm of gradients if known.

        :raises FloatingPointError: one of them is not finite, where that is checked at once.
        """
        self.names = list(losses)
        self.parts.append(torch.stack([loss.detach() for loss in losses.values()]))
        if norm is not None and self.checks_gradients:
            # Shards give their norm as a distributed tensor.
            whole = norm.full_tensor() if isinstance(norm, DTensor) else norm
            self.norms.append(whole.detach())
        if self.at_once:
            self._check(self.parts[-1].tolist(), [one.item() for one in self.norms])

    def close(self, accelerator: Any) -> None:
        """Take means over pictures and processes."""
        means = accelerator.reduce(torch.stack(self.parts).mean(0), 'mean')
        self.values = torch.cat([means, *(norm.to(means).view(1) for norm in self.norms)])

    def read(self) -> tuple[int, dict[str, float]]:
        """
        Return the steps done and the losses by name.

        :raises FloatingPointError: a loss or a gradient is not finite.
        """
        values = self.values.tolist()
        count = len(self.names)
        self._check(values[:count], values[count:])
        return self.step + 1, dict(zip(self.names, values, strict=False))

    def _check(self, losses: list[float], norms: list[float]) -> None:
        for what, value in (
            ('the loss', sum(losses)),
            *(('the norm of gradients', norm) for norm in norms),
        ):
            if not math.isfinite(value):
                raise FloatingPointError(
                    f'step {self.step}: {what} is {value}; the last state is whole: train goes on '
                    'from it with a lower --learning-rate. Or look for broken frames (data '
                    'inspect --read 0), and train without them, into another --out'
                )
