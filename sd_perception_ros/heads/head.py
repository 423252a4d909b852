"""A head: from one step of the denoiser to one task's raw output."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import nn, Tensor


class Head(nn.Module, ABC):
    """The readout of one task."""

    @abstractmethod
    def forward(self, latent: Tensor, features: tuple[Tensor, ...]) -> Tensor:
        """
        Read a task's raw output.

        :param latent: (B, c, h, w) clean latent.
        :param features: outputs of the denoiser's levels, coarse first.
        :returns: (B, channels, H', W'), any fixed multiple of (h, w).
        """
