"""Our small members of the Stable Diffusion family: same classes, a hundredth of the weights."""

from __future__ import annotations

from collections.abc import Sequence

from diffusers import AutoencoderKL, UNet2DConditionModel

PROMPT_WIDTH = 32
UNET_CHANNELS = (32, 48, 96, 160, 192)


def small_vae() -> AutoencoderKL:
    """
    Return a fresh autoencoder: 0.4 M parameters, 4 pixels to a latent cell.

    Stable Diffusion puts 8 pixels into a cell, at 768 pixels. At 256 that is the size of a head
    or a chair's leg, and a picture loses them; 4 pixels are 12 of its own. Four channels share a
    normalisation group, as in Stable Diffusion: a group of one channel takes its mean over the
    picture away, and with it the colour of every wall.
    """
    return AutoencoderKL(
        block_out_channels=(16, 32, 48),
        down_block_types=('DownEncoderBlock2D',) * 3,
        up_block_types=('UpDecoderBlock2D',) * 3,
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=256,
        mid_block_add_attention=False,
    )


def small_unet(channels: Sequence[int] = UNET_CHANNELS) -> UNet2DConditionModel:
    """
    Return a fresh denoiser with attention where a map is small; 12.7 M parameters by default.

    :param channels: of the levels, fine to coarse; the last two have attention.
    :raises ValueError: no levels, or channels that are no multiples of 8.
    """
    if not channels or any(count < 8 or count % 8 for count in channels):
        raise ValueError(f'expected channels of levels in multiples of 8, got {list(channels)}')
    levels = len(channels)
    plain = max(levels - 2, 0)
    return UNet2DConditionModel(
        block_out_channels=tuple(channels),
        down_block_types=('DownBlock2D',) * plain + ('CrossAttnDownBlock2D',) * (levels - plain),
        up_block_types=('CrossAttnUpBlock2D',) * (levels - plain) + ('UpBlock2D',) * plain,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        cross_attention_dim=PROMPT_WIDTH,
        attention_head_dim=8,
        norm_num_groups=8,
        use_linear_projection=True,
        sample_size=64,
    )
