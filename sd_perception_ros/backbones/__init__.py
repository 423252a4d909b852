"""Pre-trained diffusion models with one interface: encode, step, decode."""

from __future__ import annotations

from collections.abc import Sequence

UNET_CHANNELS = (32, 48, 96, 160, 192)  # of the levels of our small denoiser, fine to coarse


def check_channels(channels: Sequence[int]) -> None:
    """
    Check the channels of a small denoiser's levels.

    :raises ValueError: no levels, or channels that are no multiples of 8.
    """
    if not channels or any(count < 8 or count % 8 for count in channels):
        raise ValueError(f'expected channels of levels in multiples of 8, got {list(channels)}')
