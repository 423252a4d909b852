"""The interface of a head: from one step of the denoiser to the raw output of a task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import nn, Tensor


class Head(nn.Module, ABC):
    """
    The head of one task.

    :cvar reads_latent: whether it needs the clean latent; False: features only.
    :ivar levels_read: number of the denoiser's levels that it needs, coarse first; 0: all.
    :ivar weights_digest: hash of the weights of a head on the meta device; '' elsewhere.
    """

    reads_latent: ClassVar[bool] = True
    levels_read: int = 0
    weights_digest: str = ''

    @abstractmethod
    def forward(self, latent: Tensor | None, features: tuple[Tensor, ...]) -> Tensor:
        """
        Return the raw output of a task, (B, channels, H', W').

        :param latent: (B, c, h, w) clean latent; None if the denoiser has no last convolution.
        :param features: (B, F_i, h_i, w_i) outputs of the denoiser's levels, coarse first.
        """
