"""Stable Diffusion's autoencoder and UNet as a one-step backbone."""

from __future__ import annotations

import hashlib

from diffusers import AutoencoderKL, UNet2DConditionModel
import torch
from torch import nn, Tensor

from sd_perception_ros.backbones.backbone import Backbone, Denoised
from sd_perception_ros.backbones.folding import (
    encoder_is_folded,
    fold_encoder,
    fold_unet,
    foldable,
    FoldedUNet,
)


class UNetBackbone(Backbone):
    """
    One deterministic step from the picture's own latent (GenPercept, arXiv 2403.06090).

    :param vae: shared by all backbones of a checkpoint.
    :param unet: a stock UNet with the latent's channels in and out.
    :param prompt: (1, T, D) text embedding, frozen.
    :param timestep: 0..999, frozen: only its embedding reaches the UNet.
    """

    def __init__(
        self, vae: AutoencoderKL, unet: UNet2DConditionModel, prompt: Tensor, timestep: int
    ) -> None:
        super().__init__()
        _check_fit(vae, unet, prompt)
        self.vae = vae
        self.unet = unet
        self.stride = 2 ** (len(vae.config.block_out_channels) - 1)
        self.latent_channels = vae.config.latent_channels
        self.gives_latent = not isinstance(unet.conv_out, nn.Identity)
        # up_blocks run from the deepest level to the finest.
        self.feature_channels = tuple(reversed(unet.config.block_out_channels))
        self.scaling_factor: float = vae.config.scaling_factor
        self.prompt: Tensor
        self.register_buffer('prompt', prompt.float())
        self.timestep: Tensor
        self.register_buffer('timestep', torch.tensor([timestep]))
        self._features: list[Tensor] = []
        self._hooks = [block.register_forward_hook(self._keep) for block in unet.up_blocks]

    def encode(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in -1..1 -> (B, c, h, w): the mean, so that the map is deterministic."""
        latent: Tensor
        if encoder_is_folded(self.vae):
            latent = self.vae.encoder(image)
            return latent
        latent = self.vae.encode(image).latent_dist.mean
        return latent * self.scaling_factor

    def step(self, latent: Tensor) -> Denoised:
        """
        (B, c, h, w) -> clean latent and the outputs of the four up-blocks.

        With beta = 1 no signal is left in the noise schedule, so v-prediction means x0 = -v.
        """
        velocity: Tensor
        if isinstance(self.unet, FoldedUNet):
            velocity, features = self.unet(latent)
            return Denoised(-velocity if self.gives_latent else None, features)
        self._features.clear()
        prompt = self.prompt.expand(len(latent), -1, -1).to(latent.dtype)
        velocity = self.unet(latent, self.timestep, prompt).sample
        features = tuple(self._features)
        self._features.clear()  # or the last frame's activations stay in memory
        return Denoised(-velocity if self.gives_latent else None, features)

    def decode(self, latent: Tensor) -> Tensor:
        """(B, c, h, w) -> (B, 3, H, W)."""
        pixels: Tensor = self.vae.decode(latent / self.scaling_factor).sample
        return pixels

    def fold(self, decodes: bool) -> None:
        """Fold the timestep and the prompt into the UNet, and the scale into the encoder."""
        fold_encoder(self.vae, self.scaling_factor)
        if not decodes:
            self.vae.decoder = self.vae.post_quant_conv = None
        if isinstance(self.unet, FoldedUNet) or not foldable(self.unet):
            return
        side = 2 ** len(self.feature_channels)
        latent = self.prompt.new_zeros(1, self.latent_channels, side, side)
        self.unet = fold_unet(self.unet, lambda: self.step(latent))
        for hook in self._hooks:
            hook.remove()

    def encoder_id(self) -> str:
        """Return a hash of the encoder, its last convolution and the latent's scale."""
        digest = hashlib.sha256(str(self.scaling_factor).encode())
        for part in (self.vae.encoder, self.vae.quant_conv):
            for tensor in part.state_dict().values() if part is not None else ():
                digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def trainable(self) -> nn.Module:
        """Return the UNet."""
        unet: nn.Module = self.unet
        return unet

    def _keep(self, _module: nn.Module, _inputs: object, output: Tensor) -> None:
        self._features.append(output)


def _check_fit(vae: AutoencoderKL, unet: UNet2DConditionModel, prompt: Tensor) -> None:
    latent = vae.config.latent_channels
    if (unet.config.in_channels, unet.config.out_channels) != (latent, latent):
        raise ValueError(
            f'expected a UNet with {latent} channels in and out, as the VAE has, got '
            f'{unet.config.in_channels} and {unet.config.out_channels}; it belongs to another VAE '
            'or another kind of model'
        )
    width = unet.config.cross_attention_dim
    if prompt.ndim != 3 or len(prompt) != 1 or prompt.shape[2] != width:
        raise ValueError(
            f'expected a prompt embedding of shape (1, tokens, {width}), as the UNet reads it, '
            f'got {tuple(prompt.shape)}; it comes from another text encoder'
        )
