"""The exponential moving average (EMA) of trained weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn, Tensor


class WeightAverage:
    """
    An exponential moving average of weights; accelerate saves and restores it.

    :param decay: fraction of the average that each update keeps; 0: no average.
    """

    def __init__(self, weights: list[nn.Parameter], decay: float) -> None:
        self.weights = weights
        self.decay = decay
        self.means = [weight.detach().clone() for weight in weights] if decay else []
        self.updates = 0

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the weights; early updates keep less of it."""
        self.updates += 1
        decay = min(self.decay, self.updates / (self.updates + 10))
        if self.means:
            torch._foreach_lerp_(self.means, list[Tensor](self.weights), 1 - decay)

    @torch.no_grad()
    def copy_to_weights(self) -> None:
        """Replace the weights by their average."""
        for mean, weight in zip(self.means, self.weights, strict=False):
            weight.copy_(mean)

    @contextmanager
    def in_weights(self) -> Iterator[None]:
        """Let the weights be their average within a block."""
        kept = [weight.detach().clone() for weight in self.weights] if self.means else []
        self.copy_to_weights()
        try:
            yield
        finally:
            with torch.no_grad():
                for weight, before in zip(self.weights, kept, strict=False):
                    weight.copy_(before)

    def state_dict(self) -> dict[str, Any]:
        """Return the state for `load_state_dict`."""
        return {'means': self.means, 'updates': self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a saved average."""
        self.updates = state['updates']
        for mean, saved in zip(self.means, state['means'], strict=True):
            mean.copy_(saved)
