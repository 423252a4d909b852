"""The official customised head: the neck and head of DPT on the denoiser's levels."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn, Tensor
import torch.nn.functional as F

from sd_perception_ros.heads.head import Head


class DPTHead(Head):
    """
    GenPercept's DPT head (`dpt_head_identity`, `dpt_head`): all levels, fused coarse to fine.

    Structure and names are those of DPT (arXiv 2103.13413) in transformers, so that the official
    weights fit. It does not use the latent, and its denoiser needs no last convolution. The range
    of its output is arbitrary: when serving, it is stretched to -1..1 for each image, as in the
    official pipeline. The levels of a transformer have one size; they are resampled to a pyramid,
    as in DPT.

    :param channels: channels of the raw output.
    :param feature_channels: channels of the denoiser's levels, coarse first.
    :param width: channels of the fusion stages; the official heads have 256.
    :param rectifies: end in a ReLU, as `dpt_head` (not `dpt_head_identity`).
    """

    reads_latent: ClassVar[bool] = False

    def __init__(
        self,
        channels: int,
        feature_channels: tuple[int, ...],
        width: int = 256,
        rectifies: bool = False,
    ) -> None:
        super().__init__()
        self.width = width
        self.rectifies = rectifies
        self.feature_upsample_0 = _FinestLevel(feature_channels[-1])
        self.neck = _Neck(feature_channels, width)
        self.head = _OutputHead(width, channels)

    def forward(self, latent: Tensor | None, features: tuple[Tensor, ...]) -> Tensor:
        """Levels -> (B, channels, H', W'), about the size of the image."""
        *coarse, finest = _pyramid(features)
        raw: Tensor = self.head(self.neck([*coarse, self.feature_upsample_0(finest)]))
        if self.rectifies:
            raw = F.relu(raw)
        if self.training:
            return raw
        low, high = raw.amin((1, 2, 3), keepdim=True), raw.amax((1, 2, 3), keepdim=True)
        return (raw - low) / (high - low).clamp(min=1e-12) * 2 - 1


def _pyramid(levels: tuple[Tensor, ...]) -> list[Tensor]:
    """Resample levels of one size to the sizes of a UNet's levels: 1/2, 1, 2 and 2 times."""
    if len(levels) == 1 or len({level.shape[-2:] for level in levels}) > 1:
        return list(levels)
    height, width = levels[0].shape[-2:]
    deepest = F.adaptive_avg_pool2d(levels[0], (max(1, height // 2), max(1, width // 2)))
    middle = [] if len(levels) == 2 else [levels[1]]
    fine = [F.interpolate(m, scale_factor=2, mode='bilinear') for m in levels[1 + len(middle) :]]
    return [deepest, *middle, *fine]


class _FinestLevel(nn.Module):
    """Double the size of the finest level."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, level: Tensor) -> Tensor:
        doubled: Tensor = self.conv(F.interpolate(level, scale_factor=2))
        return doubled


class _Neck(nn.Module):
    """Bring all levels to one width and fuse them, coarse ones first."""

    def __init__(self, channels: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(  # in the official files the finest comes first
            nn.Conv2d(count, width, 3, padding=1, bias=False) for count in reversed(channels)
        )
        self.fusion_stage = _Stages(len(channels), width)

    def forward(self, levels: list[Tensor]) -> Tensor:
        fused: Tensor | None = None
        for conv, stage, level in zip(
            reversed(list(self.convs)), self.fusion_stage.layers, levels, strict=True
        ):
            fused = stage(conv(level), fused)
        assert fused is not None
        return fused


class _Stages(nn.Module):
    """The fusion stages, under the name of the official files."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Fusion(width, merges=index > 0) for index in range(count))


class _OutputHead(nn.Module):
    """Fused levels -> raw output, at twice their size."""

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.projection = nn.Conv2d(width, width, 3, padding=1)
        self.head = nn.Sequential(
            nn.Conv2d(width, width // 2, 3, padding=1),
            nn.Upsample(scale_factor=2, mode='bilinear', align_corners=True),
            nn.Conv2d(width // 2, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, channels, 1),
        )

    def forward(self, fused: Tensor) -> Tensor:
        raw: Tensor = self.head(F.relu(self.projection(fused)))
        return raw


class _Fusion(nn.Module):
    """Add a level to the fused coarser ones, refine the sum, and double its size."""

    def __init__(self, width: int, merges: bool) -> None:
        super().__init__()
        if merges:
            self.residual_layer1 = _Residual(width)
        self.residual_layer2 = _Residual(width)
        self.projection = nn.Conv2d(width, width, 1)

    def forward(self, level: Tensor, coarser: Tensor | None) -> Tensor:
        if coarser is not None:
            # At even sizes the shapes are equal; a traced ONNX graph must support odd ones, too.
            if torch.onnx.is_in_onnx_export() or level.shape != coarser.shape:
                level = F.interpolate(level, coarser.shape[-2:], mode='bilinear')
            level = coarser + self.residual_layer1(level)
        level = self.residual_layer2(level)
        doubled = F.interpolate(level, scale_factor=2, mode='bilinear', align_corners=True)
        projected: Tensor = self.projection(doubled)
        return projected


class _Residual(nn.Module):
    """Two convolutions, each after a ReLU, with a residual connection."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convolution1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.convolution2 = nn.Conv2d(width, width, 3, padding=1, bias=False)

    def forward(self, level: Tensor) -> Tensor:
        change: Tensor = self.convolution2(F.relu(self.convolution1(F.relu(level))))
        return level + change
