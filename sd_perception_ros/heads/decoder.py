"""The paper's first readout: the frozen VAE decoder paints the answer as a picture."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from sd_perception_ros.heads.head import Head


class DecoderHead(Head):
    """
    Decode the clean latent; one channel is the mean of the picture's three.

    :param channels: 1 or 3.
    :param decode: the backbone's decoder, not a part of this head.
    """

    def __init__(self, channels: int, decode: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        if channels not in (1, 3):
            raise ValueError(f'the decoder paints 1 or 3 channels, got {channels}; use light')
        self.channels = channels
        self.decode = decode

    def forward(self, latent: Tensor | None, features: tuple[Tensor, ...]) -> Tensor:
        """Paint and, when serving, clip to a picture's range; a loss needs the overshoot."""
        assert latent is not None  # the checkpoint's loader has seen to it
        raw = self.decode(latent)
        if self.channels == 1:
            raw = raw.mean(1, keepdim=True)
        return raw if self.training else raw.clamp(-1, 1)
