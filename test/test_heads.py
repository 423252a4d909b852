"""Heads by themselves: how an untrained one begins."""

from __future__ import annotations

import torch

from sd_perception_ros.heads.light import LightHead


def test_an_untrained_light_head_is_constant_within_each_latent_cell() -> None:
    """A checkerboard at the start would stay for thousands of steps."""
    torch.manual_seed(0)
    head = LightHead(channels=3, feature_channels=(8, 6), latent_channels=4, rise=4, width=16)
    levels = (torch.randn(1, 8, 3, 4), torch.randn(1, 6, 6, 8))
    with torch.no_grad():
        raw = head(torch.randn(1, 4, 6, 8), levels)
    assert raw.shape == (1, 3, 24, 32)
    cells = raw.unfold(2, 4, 4).unfold(3, 4, 4).flatten(4)  # (1, 3, 6, 8, 16)
    torch.testing.assert_close(cells, cells[..., :1].expand_as(cells))
    assert (cells[..., 0].std((2, 3)) > 0.01).all()  # but not the picture
    assert (raw[:, 0] - raw[:, 1]).abs().mean() > 0.01  # and each channel begins by itself


def test_an_untrained_light_head_has_no_offset() -> None:
    """Zeros in front of its last layer are zeros behind it."""
    head = LightHead(channels=3, feature_channels=(8,), latent_channels=4, width=16)
    assert head.out(torch.zeros(1, 16, 2, 2)).abs().max() == 0
