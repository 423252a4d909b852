"""The common part of latent diffusion backbones: autoencoder and frozen condition."""

from __future__ import annotations

from abc import abstractmethod
import hashlib
from typing import Any, NamedTuple

from diffusers import AutoencoderKL, AutoencoderTiny
import torch
from torch import nn, Tensor
import torch.nn.functional as F

from sd_perception_ros.backbones.autoencoders import (
    check_same_latents,
    decode,
    DECODER,
    encode,
    ENCODER,
    has_half,
    scale_of,
    stride_of,
    VAE,
)
from sd_perception_ros.backbones.backbone import Backbone, Denoised
from sd_perception_ros.backbones.folding import fold_encoder
from sd_perception_ros.backbones.onestep import OneStep


class Prompt(NamedTuple):
    """
    Embedding of the empty prompt by the text encoders; frozen.

    :ivar tokens: (1, T, D) float32; T = 0 for a denoiser that reads no text.
    :ivar pooled: (1, P) float32, the pooled embedding that SDXL and SD3 read beside the tokens.
    """

    tokens: Tensor
    pooled: Tensor | None = None


NO_TEXT = Prompt(torch.zeros(1, 0, 0))


class LatentBackbone(Backbone):
    """
    A denoiser between encoder and decoder of an autoencoder.

    :param vae: its encoder is shared by all backbones of a checkpoint.
    :param denoiser: a model of diffusers. Its input is the image latent; with twice the channels
        also the noisy latent, which stays zero.
    :param prompt: embedding that the denoiser reads.
    :param step: timestep, and meaning of the denoiser's output.
    :ivar tiny_encoder: encodes instead of `vae`; see `use_tiny`.
    :ivar tiny_decoder: decodes instead of `vae`.
    :ivar takes_noisy_latent: the denoiser's input is the image latent and the noisy latent.
    """

    def __init__(self, vae: VAE, denoiser: Any, prompt: Prompt | Tensor, step: OneStep) -> None:
        super().__init__()
        prompt = prompt if isinstance(prompt, Prompt) else Prompt(prompt)
        self.vae = vae
        self.tiny_encoder: AutoencoderTiny | None = None
        self.tiny_decoder: AutoencoderTiny | None = None
        self._scales = (scale_of(vae), scale_of(vae))  # of encoder and decoder, for `digest_of`
        self.denoiser: Any = denoiser
        self.one_step = step
        self.stride = stride_of(vae)
        self.latent_channels = vae.config.latent_channels
        self.has_decoder = has_half(vae, DECODER)
        self.takes_noisy_latent = _takes_noisy_latent(vae, denoiser)
        self.prompt: Tensor
        self.register_buffer('prompt', prompt.tokens.float())
        self.pooled: Tensor | None
        self.register_buffer('pooled', None if prompt.pooled is None else prompt.pooled.float())
        self.timestep: Tensor
        is_integer = float(step.timestep).is_integer()
        self.register_buffer(
            'timestep', torch.tensor([int(step.timestep) if is_integer else step.timestep])
        )

    def use_tiny(
        self, encoder: AutoencoderTiny | None = None, decoder: AutoencoderTiny | None = None
    ) -> None:
        """
        Encode or decode with a tiny autoencoder of the same latents instead of with `vae`.

        :param encoder: needs its encoder only; None: `vae` encodes.
        :param decoder: needs its decoder only; None: `vae` decodes.
        :raises ValueError: latents of another shape.
        """
        for key, tiny in (('tiny_encoder', encoder), ('tiny_decoder', decoder)):
            if tiny is not None:
                check_same_latents(self.vae, tiny, key)
        self.tiny_encoder, self.tiny_decoder = encoder, decoder
        self.has_decoder = has_half(decoder or self.vae, DECODER)
        self._scales = (scale_of(encoder or self.vae), scale_of(decoder or self.vae))

    def encode(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in -1..1 -> (B, c, h, w): the mean, which is deterministic."""
        return encode(self.tiny_encoder or self.vae, image)

    def step(self, latent: Tensor) -> Denoised:
        """(B, c, h, w) -> clean latent and features."""
        output, features = self.denoise(self.denoiser_input(latent))
        if output is None:
            return Denoised(None, features)
        noisy = None if self.takes_noisy_latent else latent
        return Denoised(self.one_step.clean(noisy, output), features)

    def denoiser_input(self, latent: Tensor) -> Tensor:
        """(B, c, h, w) -> input of the first layer of the denoiser, (B, c or 2c, h, w)."""
        # The latent of the image first, as in Marigold.
        return (
            F.pad(latent, (0, 0, 0, 0, 0, latent.shape[1])) if self.takes_noisy_latent else latent
        )

    @abstractmethod
    def denoise(self, inputs: Tensor) -> tuple[Tensor | None, tuple[Tensor, ...]]:
        """(B, c or 2c, h, w) -> the denoiser's raw output (B, c, h, w), and features."""

    def decode(self, latent: Tensor) -> Tensor:
        """(B, c, h, w) -> (B, 3, H, W)."""
        return decode(self.tiny_decoder or self.vae, latent)

    def fold(self, decodes: bool) -> None:
        """Fold the scale into the encoder, and drop a decoder that no head reads."""
        if self.tiny_encoder is None and isinstance(self.vae, AutoencoderKL):
            fold_encoder(self.vae, scale_of(self.vae).factor)
        if not decodes:
            self.vae.decoder = self.vae.post_quant_conv = self.tiny_decoder = None

    def encoder_id(self) -> str:
        """Return a hash of the encoder, its last convolution and the latent's scale."""
        vae = self.tiny_encoder or self.vae
        factor, shift = scale_of(vae)
        digest = hashlib.sha256(f'{factor} {shift}'.encode())
        for module in (getattr(vae, name, None) for name in ENCODER):
            for tensor in module.state_dict().values() if module is not None else ():
                digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def trainable(self) -> nn.Module:
        """Return the denoiser."""
        denoiser: nn.Module = self.denoiser
        return denoiser


def _takes_noisy_latent(vae: VAE, denoiser: Any) -> bool:
    """Return whether the denoiser's input is two latents; refuse other numbers of channels."""
    latent = vae.config.latent_channels
    channels: int = denoiser.config['in_channels']
    out = denoiser.config.get('out_channels') or channels
    if channels not in (latent, 2 * latent) or out not in (latent, 2 * latent):
        raise ValueError(
            f'expected a denoiser with {latent} or {2 * latent} channels in and {latent} out, as '
            f'the VAE has, got {channels} and {out}; it belongs to another VAE or another kind of '
            'model'
        )
    return bool(channels == 2 * latent)


def check_prompt(width: int, tokens: Tensor) -> None:
    """
    Refuse the embedding of another text encoder than the denoiser's.

    :param width: D of the (1, T, D) tokens that it reads.
    """
    if tokens.ndim != 3 or len(tokens) != 1 or tokens.shape[2] != width:
        raise ValueError(
            f'expected a prompt embedding of shape (1, tokens, {width}), as the denoiser reads '
            f'it, got {tuple(tokens.shape)}; it comes from another text encoder'
        )


def check_pooled(width: int, pooled: Tensor | None) -> None:
    """Refuse a pooled embedding that is missing or of another width than P of (1, P)."""
    if pooled is None or pooled.shape != (1, width):
        got = 'none' if pooled is None else str(tuple(pooled.shape))
        raise ValueError(
            f'expected a pooled prompt embedding of shape (1, {width}), got {got}; the file of '
            "the prompt needs the tensors 'prompt' and 'pooled'"
        )
