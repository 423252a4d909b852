"""The first head of the paper: the frozen VAE decoder outputs an image."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from sd_perception_ros.heads.head import Head


class DecoderHead(Head):
    """
    Decode the clean latent; a single channel is the mean of its three.

    :param channels: 1 or 3.
    :param decode: decoder of the backbone; its weights do not belong to this head.
    :raises ValueError: another number of channels.
    """

    def __init__(self, channels: int, decode: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        if channels not in (1, 3):
            raise ValueError(f'the decoder head has 1 or 3 channels, got {channels}; use light')
        self.channels = channels
        self.decode = decode

    def forward(self, latent: Tensor | None, features: tuple[Tensor, ...]) -> Tensor:
        """Decode; when serving, clip to -1..1 (a loss needs the values beyond)."""
        assert latent is not None  # checked when the checkpoint is loaded
        raw = self.decode(latent)
        if self.channels == 1:
            raw = raw.mean(1, keepdim=True)
        return raw if self.training else raw.clamp(-1, 1)
