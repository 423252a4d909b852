"""Our light head: a few convolutions on the denoiser's levels instead of the VAE decoder."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn, Tensor
import torch.nn.functional as F

from sd_perception_ros.heads.head import Head


class LightHead(Head):
    """
    Fuse all levels at the latent's size; each latent cell gives `rise` x `rise` output cells.

    The denoiser has no detail finer than its finest level: convolutions above that size cost three
    times as much and gain nothing. Upsampling is a rearrangement of channels (sub-pixel
    convolution, arXiv 1609.05158). The VAE decoder takes more than half of the arithmetic of a
    frame, this head about 3 %.

    :param channels: channels of the raw output.
    :param feature_channels: channels of the denoiser's levels, coarse first.
    :param latent_channels: channels of the clean latent, which is an input, too.
    :param rise: output cells along one side of a latent cell.
    :param width: channels inside the head.
    """

    def __init__(
        self,
        channels: int,
        feature_channels: tuple[int, ...],
        latent_channels: int,
        rise: int = 4,
        width: int = 64,
    ) -> None:
        super().__init__()
        self.rise = rise
        self.width = width
        self.project = nn.ModuleList(
            nn.Conv2d(count, width, 1) for count in (*feature_channels, latent_channels)
        )
        self.fuse = nn.Sequential(_block(width), _block(width))
        self.out = nn.Conv2d(width, channels * rise**2, 1)
        with torch.no_grad():  # equal start of all cells of a latent cell: no checkerboard
            start = self.out.weight[:: rise**2].repeat_interleave(rise**2, 0)
            self.out.weight.copy_(start)
            self.out.bias.zero_()  # type: ignore[union-attr]

    def forward(self, latent: Tensor | None, features: tuple[Tensor, ...]) -> Tensor:
        """(B, c, h, w) and levels -> (B, channels, rise * h, rise * w)."""
        assert latent is not None  # checked when the checkpoint is loaded
        fused = self.fuse(summed(self.project, (*features, latent)))
        return F.pixel_shuffle(self.out(fused), self.rise)


def summed(project: Iterable[nn.Module], levels: Iterable[Tensor]) -> Tensor:
    """Return the sum of projected levels, coarse first, at the size of the last one."""
    fused = None
    for conv, level in zip(project, levels, strict=True):
        finer: Tensor = conv(level)
        # Level by level: enlarging each one to the size of the latent moves more memory.
        fused = finer if fused is None else finer + _to_size(fused, finer.shape[-2:])
    assert fused is not None
    return fused


def _to_size(level: Tensor, size: torch.Size) -> Tensor:
    return level if level.shape[-2:] == size else F.interpolate(level, size, mode='bilinear')


def _block(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.GroupNorm(8, width), nn.SiLU())
