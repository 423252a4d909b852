"""Our light readout: a few convolutions on the denoiser's levels instead of the VAE decoder."""

from __future__ import annotations

import torch
from torch import nn, Tensor
import torch.nn.functional as F

from sd_perception_ros.heads.head import Head


class LightHead(Head):
    """
    Fuse all levels at the latent's size, then rise to four times that size.

    The VAE decoder is more than half of all arithmetic of a frame; this head is about a hundredth.

    :param channels: of the raw output.
    :param feature_channels: of the denoiser's levels, coarse first.
    :param latent_channels: of the clean latent, which is read too.
    :param width: channels inside the head.
    """

    def __init__(
        self,
        channels: int,
        feature_channels: tuple[int, ...],
        latent_channels: int,
        width: int = 64,
    ) -> None:
        super().__init__()
        self.width = width
        self.project = nn.ModuleList(
            nn.Conv2d(count, width, 1) for count in (*feature_channels, latent_channels)
        )
        self.fuse = _block(width, width)
        self.rise = nn.ModuleList([_block(width, width // 2), _block(width // 2, width // 2)])
        self.out = nn.Conv2d(width // 2, channels, 3, padding=1)

    def forward(self, latent: Tensor | None, features: tuple[Tensor, ...]) -> Tensor:
        """(B, c, h, w) and levels -> (B, channels, 4h, 4w)."""
        assert latent is not None  # the checkpoint's loader has seen to it
        size = latent.shape[-2:]
        levels = [
            _to_size(project(level), size)
            for project, level in zip(self.project, (*features, latent), strict=True)
        ]
        fused = self.fuse(torch.stack(levels).sum(0))
        for block in self.rise:
            fused = block(F.interpolate(fused, scale_factor=2, mode='bilinear'))
        raw: Tensor = self.out(fused)
        return raw


def _to_size(level: Tensor, size: torch.Size) -> Tensor:
    return level if level.shape[-2:] == size else F.interpolate(level, size, mode='bilinear')


def _block(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, padding=1),
        nn.GroupNorm(8, channels_out),
        nn.SiLU(),
    )
