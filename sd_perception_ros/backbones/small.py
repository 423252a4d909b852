"""Our small members of the Stable Diffusion family: same classes, a hundredth of the weights."""

from __future__ import annotations

from diffusers import AutoencoderKL, UNet2DConditionModel

PROMPT_WIDTH = 32


def small_vae() -> AutoencoderKL:
    """
    Return a fresh autoencoder: 1.7 M parameters, 8 pixels to a latent cell.

    Four channels share a normalisation group, as in Stable Diffusion: a group of one channel
    takes its mean over the picture away, and with it the colour of every wall.
    """
    return AutoencoderKL(
        block_out_channels=(16, 32, 64, 96),
        down_block_types=('DownEncoderBlock2D',) * 4,
        up_block_types=('UpDecoderBlock2D',) * 4,
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=256,
    )


def small_unet() -> UNet2DConditionModel:
    """Return a fresh denoiser: 9.3 M parameters, attention where a map is small."""
    return UNet2DConditionModel(
        block_out_channels=(32, 64, 128, 176),
        down_block_types=(
            'DownBlock2D',
            'DownBlock2D',
            'CrossAttnDownBlock2D',
            'CrossAttnDownBlock2D',
        ),
        up_block_types=('CrossAttnUpBlock2D', 'CrossAttnUpBlock2D', 'UpBlock2D', 'UpBlock2D'),
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        cross_attention_dim=PROMPT_WIDTH,
        attention_head_dim=8,
        norm_num_groups=8,
        use_linear_projection=True,
        sample_size=32,
    )
