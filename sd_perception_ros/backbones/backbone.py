"""The interface of a backbone: encode, step, decode."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import nn, Tensor


class Denoised(NamedTuple):
    """
    The result of one step of the denoiser.

    :ivar latent: (B, c, h, w) clean latent; None if the denoiser has no last convolution, as in
        the official checkpoints with a DPT head.
    :ivar features: (B, F_i, h_i, w_i) outputs of the denoiser's up-sampling levels, coarse first.
    """

    latent: Tensor | None
    features: tuple[Tensor, ...]


class Backbone(nn.Module, ABC):
    """
    The pre-trained part of a model: UNet or transformer, latent scale, schedule and prompt.

    :ivar stride: image pixels per latent cell.
    :ivar latent_channels: c of a latent (B, c, h, w).
    :ivar outputs_latent: False: `step` returns features only.
    :ivar has_decoder: False: `decode` cannot be called.
    :ivar feature_channels: channels of `Denoised.features`.
    :ivar weights_digest: hash of the weights of a backbone on the meta device; '' elsewhere.
    """

    stride: int
    latent_channels: int
    outputs_latent: bool
    has_decoder: bool
    feature_channels: tuple[int, ...]
    weights_digest: str = ''

    @abstractmethod
    def encode(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in -1..1 -> (B, c, h, w), scaled as the denoiser expects it."""

    @abstractmethod
    def step(self, latent: Tensor) -> Denoised:
        """(B, c, h, w) -> clean latent and features; timestep and prompt are frozen."""

    @abstractmethod
    def decode(self, latent: Tensor) -> Tensor:
        """(B, c, h, w) clean latent -> (B, 3, H, W), -1..1 up to the decoder's overshoot."""

    def fold(self, decodes: bool) -> None:
        """
        Compute constants of the frozen condition once, for serving; training is impossible then.

        Outputs stay equal up to rounding.

        :param decodes: whether `decode` is still needed.
        """

    def cut(self, levels: int) -> None:
        """
        Drop the modules after the first levels, for serving: `step` then gives no latent.

        :param levels: number of `Denoised.features` that are still needed, coarse first.
        """

    def is_traceable(self) -> bool:
        """Return whether one trace of the folded backbone is valid for images of any size."""
        return False

    @abstractmethod
    def encoder_id(self) -> str:
        """Return a hash of the encoder's weights: equal hashes give equal latents."""

    @abstractmethod
    def trainable(self) -> nn.Module:
        """Return the module that fine-tuning trains: the denoiser."""
