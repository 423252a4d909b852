"""Small models in the architecture of Stable Diffusion, with about 1 % of its weights."""

from __future__ import annotations

from collections.abc import Sequence

from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
import torch

from sd_perception_ros.backbones import check_channels, UNET_CHANNELS

PROMPT_WIDTH = 32


def small_vae() -> AutoencoderKL:
    """
    Return a new autoencoder: 0.4 M parameters, 4 pixels per latent cell.

    Stable Diffusion has 8 pixels per latent cell, at 768 pixels. At 256 pixels, 8 is the size of a
    head or a chair's leg, which would be lost; 4 pixels correspond to 12 at 768. Four channels
    share a normalisation group, as in Stable Diffusion: a group of one channel would remove its
    mean over the image, and with it the colour of walls.
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


def small_tiny(channels: int, latent_channels: int, stride: int) -> AutoencoderTiny:
    """
    Return a fresh tiny autoencoder; 64 channels, 4 latent channels and stride 8 make taesd's.

    :param stride: pixels to a latent cell, a power of two.
    """
    levels = stride.bit_length()
    return AutoencoderTiny(
        encoder_block_out_channels=(channels,) * levels,
        decoder_block_out_channels=(channels,) * levels,
        num_encoder_blocks=(1, *(3,) * (levels - 1)),
        num_decoder_blocks=(*(3,) * (levels - 1), 1),
        latent_channels=latent_channels,
    )


def small_unet(channels: Sequence[int] = UNET_CHANNELS) -> UNet2DConditionModel:
    """
    Return a new denoiser with attention at the coarse levels; 12.7 M parameters by default.

    :param channels: channels of the levels, fine to coarse; the last two have attention.
    :raises ValueError: no levels, or channels that are no multiples of 8.
    """
    check_channels(channels)
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


@torch.no_grad()
def take_over(unet: UNet2DConditionModel, source: UNet2DConditionModel) -> float:
    """
    Copy the weights of a denoiser into one that may have more levels.

    Levels are matched from the coarsest one, so that they see objects of the same size as before;
    additional finer levels keep their weights. So do weights of another shape.

    :param unet: changed in place.
    :param source: the model whose weights are copied.
    :returns: fraction of the parameters of `unet` that were copied, 0..1.
    :raises ValueError: `source` has more levels, or its coarsest level does not fit.
    """
    finer = len(unet.config.block_out_channels) - len(source.config.block_out_channels)
    if finer < 0:
        raise ValueError(
            f'expected a denoiser of at most {len(unet.config.block_out_channels)} levels to take '
            f'over, got one of {len(source.config.block_out_channels)}'
        )
    weights, copied = unet.state_dict(), set()
    for name, tensor in source.state_dict().items():
        if name.startswith('down_blocks.'):
            _, level, rest = name.split('.', 2)
            name = f'down_blocks.{int(level) + finer}.{rest}'
        if name in weights and weights[name].shape == tensor.shape:
            weights[name].copy_(tensor)
            copied.add(name)
    # The other weights are useless without the middle block and the time embedding.
    if {name for name in weights if name.startswith(('mid_block.', 'time_embedding.'))} - copied:
        raise ValueError(
            f'a denoiser of channels {list(source.config.block_out_channels)} does not fit into '
            f'one of {list(unet.config.block_out_channels)}: its channels must be the last ones'
        )
    total = sum(tensor.numel() for tensor in weights.values())
    return float(sum(weights[name].numel() for name in copied) / total)
