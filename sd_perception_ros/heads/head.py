"""A head: from one step of the denoiser to one task's raw output."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import nn, Tensor


class Head(nn.Module, ABC):
    """
    The readout of one task.

    :cvar reads_latent: whether it needs the clean latent, or the features alone.
    :ivar weights_digest: names the numbers where there are only shapes.
    """

    reads_latent: ClassVar[bool] = True
    weights_digest: str = ''

    @abstractmethod
    def forward(self, latent: Tensor | None, features: tuple[Tensor, ...]) -> Tensor:
        """
        Read a task's raw output.

        :param latent: (B, c, h, w) clean latent; None where the denoiser has no last convolution.
        :param features: outputs of the denoiser's levels, coarse first.
        :returns: (B, channels, H', W').
        """
