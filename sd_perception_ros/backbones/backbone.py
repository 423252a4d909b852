"""A backbone: three maps that hide UNet or transformer, latent scale, schedule and prompt."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import nn, Tensor


class Denoised(NamedTuple):
    """
    What one step of the denoiser leaves.

    :ivar latent: (B, c, h, w) clean latent; None where the denoiser's last convolution was cut
        off, as in the official checkpoints with a DPT head.
    :ivar features: (B, F_i, h_i, w_i) outputs of the denoiser's up-sampling levels, coarse first.
    """

    latent: Tensor | None
    features: tuple[Tensor, ...]


class Backbone(nn.Module, ABC):
    """The pre-trained part of a model."""

    stride: int  # image pixels per latent cell
    latent_channels: int
    outputs_latent: bool  # False: `step` gives features only
    has_decoder: bool  # False: it has no decoder
    feature_channels: tuple[int, ...]  # channels of Denoised.features
    weights_digest: str = ''  # names the numbers where there are only shapes

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
        Compute once what no picture changes, for serving: outputs stay equal, training ends.

        :param decodes: whether `decode` is still needed.
        """

    def is_traceable(self) -> bool:
        """Return whether, folded, one recorded trace of it is right for pictures of any size."""
        return False

    @abstractmethod
    def encoder_id(self) -> str:
        """Return a name of the encoder's weights: equal names give equal latents."""

    @abstractmethod
    def trainable(self) -> nn.Module:
        """Return the part that fine-tuning moves: the denoiser; the encoder stays as it is."""
