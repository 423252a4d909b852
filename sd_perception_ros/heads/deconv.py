"""The head of SDPose: one transposed convolution on one level of the denoiser."""

from __future__ import annotations

from typing import ClassVar

from torch import nn, Tensor
import torch.nn.functional as F

from sd_perception_ros.heads.head import Head


class DeconvHead(Head):
    """
    A heat map for each joint, at twice the size of a level (SDPose, arXiv 2509.24980).

    Structure and names of the tensors are those of a heat map head of mmpose with one transposed
    convolution, so that the published weights fit. It does not use the latent, nor later levels
    of the denoiser.

    :param channels: number of heat maps.
    :param feature_channels: channels of the denoiser's levels, coarse first.
    :param width: channels of the level to read; the finest level with this number is taken.
    :raises ValueError: no level has that many channels.
    """

    reads_latent: ClassVar[bool] = False

    def __init__(self, channels: int, feature_channels: tuple[int, ...], width: int) -> None:
        super().__init__()
        if width not in feature_channels:
            raise ValueError(
                f'expected a deconv head on one of the denoiser levels of {feature_channels} '
                f'channels, got one of {width}; it belongs to another denoiser'
            )
        self.level = len(feature_channels) - 1 - feature_channels[::-1].index(width)
        self.levels_read = self.level + 1
        self.deconv_layers = nn.Sequential(
            nn.ConvTranspose2d(width, width, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.conv_layers = nn.Sequential(nn.Conv2d(width, width, 1), nn.BatchNorm2d(width))
        self.final_layer = nn.Conv2d(width, channels, 1)

    def train(self, mode: bool = True) -> DeconvHead:
        """
        Keep the statistics of the batch normalization, also in training.

        Those of a small batch of crops are poor, and they differ with the number of processes.
        """
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def forward(self, latent: Tensor | None, features: tuple[Tensor, ...]) -> Tensor:
        """Levels -> (B, channels, 2h, 2w) for a level of (h, w) cells."""
        hidden = F.relu(self.deconv_layers(features[self.level]))
        maps: Tensor = self.final_layer(F.relu(self.conv_layers(hidden)))
        return maps
