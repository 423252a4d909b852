"""UNets of Stable Diffusion as one-step backbones: SD 1.5, 2, XL, Marigold, E2E-FT, Lotus."""

from __future__ import annotations

import math
from typing import Any

from diffusers import UNet2DConditionModel
import torch
from torch import nn, Tensor

from sd_perception_ros.backbones.autoencoders import VAE
from sd_perception_ros.backbones.folding import fold_unet, foldable, FoldedUNet
from sd_perception_ros.backbones.latent import (
    check_pooled,
    check_prompt,
    LatentBackbone,
    Prompt,
)
from sd_perception_ros.backbones.onestep import OneStep

# Lotus's task embedding (1, 0), 'annotation', as sines and cosines; (0, 1) is 'image'.
LOTUS_SWITCH = (math.sin(1), math.sin(0), math.cos(1), math.cos(0))


class UNetBackbone(LatentBackbone):
    """
    One deterministic step of a UNet (GenPercept, arXiv 2403.06090).

    Everything except the image is frozen: timestep, prompt, SDXL's sizes and pooled prompt
    (arXiv 2307.01952), Lotus's task switch (arXiv 2409.18124).

    :param unet: a UNet of diffusers.
    :param timestep: a `OneStep`, or a number: the step of GenPercept at this timestep.
    """

    def __init__(
        self,
        vae: VAE,
        unet: UNet2DConditionModel,
        prompt: Prompt | Tensor,
        timestep: OneStep | int,
    ) -> None:
        step = timestep if isinstance(timestep, OneStep) else OneStep(timestep)
        super().__init__(vae, unet, prompt, step)
        check_prompt(unet.config.cross_attention_dim, self.prompt)
        self.outputs_latent = not isinstance(unet.conv_out, nn.Identity)
        # up_blocks run from the deepest level to the finest.
        self.feature_channels = tuple(reversed(unet.config.block_out_channels))
        self.switch: Tensor | None
        switched = unet.config.class_embed_type == 'projection'
        self.register_buffer('switch', torch.tensor([LOTUS_SWITCH]) if switched else None)
        self.sizes: Tensor | None
        self.register_buffer('sizes', self._sizes(unet))
        self._features: list[Tensor] = []
        self._hooks = [block.register_forward_hook(self._store) for block in unet.up_blocks]

    @property
    def unet(self) -> UNet2DConditionModel:
        """Return the denoiser."""
        return self.denoiser

    def denoise(self, inputs: Tensor) -> tuple[Tensor | None, tuple[Tensor, ...]]:
        """(B, c or 2c, h, w) -> raw output (None without conv_out) and the up-blocks' outputs."""
        output: Tensor
        if isinstance(self.unet, FoldedUNet):
            output, features = self.unet(inputs)
            return (output if self.outputs_latent else None), features
        self._features.clear()
        condition = self._condition(len(inputs), inputs.dtype)
        output = self.unet(inputs, self.timestep, **condition).sample
        features = tuple(self._features)
        self._features.clear()  # otherwise the activations of the last frame stay in memory
        return (output if self.outputs_latent else None), features

    def cut(self, levels: int) -> None:
        """Drop the finer up blocks and the output convolution; see `Backbone.cut`."""
        if isinstance(self.unet, FoldedUNet):
            return
        self.unet.up_blocks = self.unet.up_blocks[:levels]
        for name in ('conv_norm_out', 'conv_act', 'conv_out'):
            setattr(self.unet, name, nn.Identity())
        self.outputs_latent = False
        self.feature_channels = self.feature_channels[:levels]

    def fold(self, decodes: bool) -> None:
        """Fold the timestep and the prompt into the UNet, and the scale into the encoder."""
        super().fold(decodes)
        if isinstance(self.unet, FoldedUNet) or not foldable(self.unet):
            return
        side = 2 ** len(self.unet.down_blocks)
        latent = self.prompt.new_zeros(1, self.latent_channels, side, side)
        self.denoiser = fold_unet(self.unet, lambda: self.step(latent))
        for hook in self._hooks:
            hook.remove()

    def is_traceable(self) -> bool:
        """Return whether the UNet was folded; that of diffusers branches on the image size."""
        return isinstance(self.unet, FoldedUNet)

    def _condition(self, batch: int, dtype: torch.dtype) -> dict[str, Any]:
        """Return the frozen arguments of the UNet's forward, except the timestep."""
        frozen: dict[str, Any] = {
            'encoder_hidden_states': self.prompt.expand(batch, -1, -1).to(dtype)
        }
        if self.switch is not None:
            frozen['class_labels'] = self.switch.expand(batch, -1).to(dtype)
        if self.sizes is not None:
            assert self.pooled is not None
            frozen['added_cond_kwargs'] = {
                'text_embeds': self.pooled.expand(batch, -1).to(dtype),
                'time_ids': self.sizes.expand(batch, -1).to(dtype),
            }
        return frozen

    def _sizes(self, unet: UNet2DConditionModel) -> Tensor | None:
        """Return SDXL's (1, 6) time_ids: size of training, no crop."""
        kind = unet.config.addition_embed_type
        if kind is None:
            return None
        if kind != 'text_time':
            raise ValueError(
                f"expected addition_embed_type 'text_time' or none in the UNet, got '{kind}'; "
                'this model has another input beside text, which is not supported'
            )
        ids = 6 * unet.config.addition_time_embed_dim
        check_pooled(unet.config.projection_class_embeddings_input_dim - ids, self.pooled)
        side_px = float(unet.config.sample_size * self.stride)
        return torch.tensor([[side_px, side_px, 0.0, 0.0, side_px, side_px]])

    def _store(self, _module: nn.Module, _inputs: object, output: Tensor) -> None:
        self._features.append(output)
