"""The autoencoders of diffusers that a backbone encodes and decodes with: KL and tiny."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

from diffusers import AutoencoderKL, AutoencoderTiny
from torch import nn, Tensor

from sd_perception_ros.backbones.folding import encoder_is_folded

VAE: TypeAlias = AutoencoderKL | AutoencoderTiny
# The modules of each half; a half that is not loaded is the identity.
ENCODER = ('encoder', 'quant_conv')
DECODER = ('decoder', 'post_quant_conv')


class LatentScale(NamedTuple):
    """
    From the output of an autoencoder's encoder to the denoiser's latent: (x - shift) * factor.

    AutoencoderKL of Stable Diffusion 2 has factor 0.18215. A tiny autoencoder has factor 1 and
    shift 0: its encoder gives the scaled latent itself.
    """

    factor: float
    shift: float


def scale_of(vae: VAE) -> LatentScale:
    """Return the scale in an autoencoder's config."""
    config: Any = vae.config
    return LatentScale(config.scaling_factor, config.get('shift_factor') or 0.0)


def stride_of(vae: VAE) -> int:
    """Return the image pixels per latent cell."""
    config: Any = vae.config
    is_tiny = isinstance(vae, AutoencoderTiny)
    levels = config.encoder_block_out_channels if is_tiny else config.block_out_channels
    return int(2 ** (len(levels) - 1))


def encode(vae: VAE, image: Tensor) -> Tensor:
    """(B, 3, H, W) in -1..1 -> scaled latent (B, c, h, w); of KL the mean: deterministic."""
    factor, shift = scale_of(vae)
    latent: Tensor
    if isinstance(vae, AutoencoderKL) and encoder_is_folded(vae):
        latent = vae.encoder(image)
        return latent - shift * factor
    encoded: Any = vae.encode(image)
    is_tiny = isinstance(vae, AutoencoderTiny)
    latent = encoded.latents if is_tiny else encoded.latent_dist.mean
    return (latent - shift) * factor


def decode(vae: VAE, latent: Tensor) -> Tensor:
    """Scaled latent (B, c, h, w) -> (B, 3, H, W), -1..1 up to the decoder's overshoot."""
    factor, shift = scale_of(vae)
    decoded: Any = vae.decode(latent / factor + shift)
    pixels: Tensor = decoded.sample
    return pixels


def has_half(vae: VAE, half: tuple[str, ...]) -> bool:
    """
    Return whether an autoencoder has its encoder or its decoder.

    :param half: `ENCODER` or `DECODER`.
    """
    return not isinstance(getattr(vae, half[0]), nn.Identity)


def check_same_latents(vae: VAE, tiny: AutoencoderTiny, key: str) -> None:
    """
    Refuse a tiny autoencoder whose latents have another shape than those of `vae`.

    :param key: of checkpoint.yaml, for the error message.
    """
    config: Any = tiny.config
    up = config.upsampling_scaling_factor ** (len(config.decoder_block_out_channels) - 1)
    stride = stride_of(tiny) if key == 'tiny_encoder' else up
    expected = (vae.config.latent_channels, stride_of(vae))
    if (config.latent_channels, stride) != expected:
        raise ValueError(
            f'{key}: expected a tiny autoencoder with {expected[0]} latent channels and stride '
            f'{expected[1]}, as the VAE has, got {config.latent_channels} and {stride}; taesd is '
            'for Stable Diffusion 1 and 2, taesdxl for SDXL, taesd3 for Stable Diffusion 3'
        )


def check_tiny_scale(tiny: AutoencoderTiny, key: str) -> None:
    """
    Refuse to train a tiny autoencoder whose config scales the output of its encoder.

    :param key: name of it, for the error message.
    """
    if scale_of(tiny) != (1, 0):
        factor, shift = scale_of(tiny)
        raise ValueError(
            f'{key}: expected scaling_factor 1 and shift_factor 0 in config.json of the tiny '
            f'autoencoder, whose encoder gives the scaled latent itself, got {factor:g} and '
            f'{shift:g}; start from taesd, or from a fresh one'
        )
