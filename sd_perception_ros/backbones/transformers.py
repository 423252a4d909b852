"""Diffusion transformers as one-step backbones: DiT, PixArt and the MMDiT of SD3."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from diffusers import (
    DiTTransformer2DModel,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
)
import torch
from torch import nn, Tensor
import torch.nn.functional as F

from sd_perception_ros.backbones.autoencoders import VAE
from sd_perception_ros.backbones.folding import ConstantTokens
from sd_perception_ros.backbones.latent import (
    check_pooled,
    check_prompt,
    LatentBackbone,
    Prompt,
)
from sd_perception_ros.backbones.onestep import OneStep

LEVELS = 4  # block outputs that heads read, evenly spaced
DDPM: Mapping[str, Any] = {
    'beta_start': 0.0001,
    'beta_end': 0.02,
    'beta_schedule': 'linear',
    'prediction_type': 'epsilon',
    'clip_sample': False,
}


class TransformerBackbone(LatentBackbone):
    """
    One deterministic step of a transformer on patches of the latent.

    The modules are those of diffusers; the loop over blocks is ours, because forward of diffusers
    does not return the outputs of blocks, and DiT's takes square latents only. A latent whose size
    is no multiple of the patch is padded at its lower and right edge, and the output is cropped.

    Frozen: timestep, prompt, class label, sizes. `fold` replaces modules that depend only on them.

    :cvar model: class of diffusers.
    :cvar schedule: of the published models, for a folder without a scheduler.
    :cvar reads_text: whether it needs the embedding of a prompt.
    """

    model: ClassVar[type[Any]]
    legacy_norm: ClassVar[str] = ''  # of Transformer2DModel, the class that DiT and PixArt had
    schedule: ClassVar[Mapping[str, Any]]
    reads_text: ClassVar[bool] = True

    def __init__(self, vae: VAE, transformer: Any, prompt: Prompt | Tensor, step: OneStep) -> None:
        super().__init__(vae, transformer, prompt, step)
        self.outputs_latent = True
        self._is_folded = False
        blocks = len(self.blocks)
        self.taps = sorted(
            {max(1, round(blocks * part / LEVELS)) for part in range(1, LEVELS + 1)}
        )
        config = transformer.config
        width = config['num_attention_heads'] * config['attention_head_dim']
        self.feature_channels = (width,) * len(self.taps)
        self.patch: int = config['patch_size']
        self._check()

    @classmethod
    def claims(cls, config: Mapping[str, Any]) -> bool:
        """Return whether a config.json is one of this family."""
        name = config.get('_class_name', '')
        legacy = name == 'Transformer2DModel' and config.get('norm_type') == cls.legacy_norm
        return name == cls.model.__name__ or legacy

    @classmethod
    def model_of(cls, _config: Mapping[str, Any]) -> type[Any]:
        """Return the class of diffusers that reads the weights."""
        return cls.model

    @property
    def transformer(self) -> Any:
        """Return the denoiser."""
        return self.denoiser

    @property
    def blocks(self) -> Sequence[Any]:
        """Return the blocks, first to last."""
        blocks: Sequence[Any] = self.transformer.transformer_blocks
        return blocks

    def denoise(self, inputs: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """(B, c or 2c, h, w) -> raw output (B, c, h, w), and blocks' maps, deepest first."""
        height, width = inputs.shape[-2:]
        rows, columns = (-(-side // self.patch) for side in (height, width))
        extra = (0, columns * self.patch - width, 0, rows * self.patch - height)
        padded = F.pad(inputs, extra, mode='replicate') if any(extra) else inputs
        tokens, levels = self.run(self.embed(padded))
        cells = tokens.view(len(inputs), rows, columns, self.patch, self.patch, -1)
        output = cells.permute(0, 5, 1, 3, 2, 4).reshape(len(inputs), -1, *padded.shape[-2:])
        maps = [level.transpose(1, 2).reshape(len(inputs), -1, rows, columns) for level in levels]
        if any(extra):  # so that the maps stay aligned with the latent
            maps = [F.interpolate(m, padded.shape[-2:], mode='bilinear') for m in maps]
            maps = [m[..., :height, :width] for m in maps]
        # After the channels of the latent, DiT and PixArt predict a variance, which is not used.
        return output[:, : self.latent_channels, :height, :width], tuple(reversed(maps))

    def embed(self, latent: Tensor) -> Tensor:
        """(B, c or 2c, h, w) -> (B, N, D) tokens; positions are stretched to any size."""
        tokens: Tensor = self.transformer.pos_embed(latent)
        return tokens

    @abstractmethod
    def run(self, tokens: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(B, N, D) -> patches (B, N, p * p * c), and the outputs of the tapped blocks."""

    @torch.no_grad()
    def fold(self, decodes: bool) -> None:
        """Fold the encoder, and replace modules whose inputs are frozen."""
        super().fold(decodes)
        if not self._is_folded:
            self.fold_condition()
            self._is_folded = True

    @abstractmethod
    def fold_condition(self) -> None:
        """Replace modules whose inputs are frozen by their outputs."""

    def _check(self) -> None:
        """Refuse a prompt of another width."""

    def _run_block(self, block: nn.Module, *inputs: Any) -> Any:
        """Run a block, with gradient checkpointing if it is on."""
        if self.transformer.gradient_checkpointing and torch.is_grad_enabled():
            return self.transformer._gradient_checkpointing_func(block, *inputs)
        return block(*inputs)


class DiTBackbone(TransformerBackbone):
    """DiT (arXiv 2212.09748): no text; its class label is frozen at 'no class'."""

    model = DiTTransformer2DModel
    legacy_norm = 'ada_norm_zero'
    schedule = DDPM
    reads_text = False

    def __init__(self, vae: VAE, transformer: Any, prompt: Prompt | Tensor, step: OneStep) -> None:
        super().__init__(vae, transformer, prompt, step)
        self.label: Tensor
        self.register_buffer('label', torch.tensor([transformer.config['num_embeds_ada_norm']]))

    def run(self, tokens: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(B, N, D) -> patches (B, N, p * p * c), and the outputs of the tapped blocks."""
        levels = []
        for number, block in enumerate(self.blocks, 1):
            frozen = (None, None, None, self.timestep, None, self.label)
            tokens = self._run_block(block, tokens, *frozen)
            if number in self.taps:
                levels.append(tokens)
        net = self.transformer
        embedding = self.blocks[0].norm1.emb(self.timestep, self.label, hidden_dtype=tokens.dtype)
        shift, scale = net.proj_out_1(F.silu(embedding)).chunk(2, dim=1)
        tokens = net.norm_out(tokens) * (1 + scale[:, None]) + shift[:, None]
        return net.proj_out_2(tokens), levels

    def fold_condition(self) -> None:
        """Replace embeddings and modulations by constants."""
        dtype = self.transformer.proj_out_2.weight.dtype
        for block in self.blocks:
            embedding = block.norm1.emb(self.timestep, self.label, hidden_dtype=dtype)
            block.norm1.linear = FrozenOutput(block.norm1.linear(F.silu(embedding)))
            block.norm1.emb = FrozenOutput(embedding)
        first = self.blocks[0].norm1.emb(None)
        self.transformer.proj_out_1 = FrozenOutput(self.transformer.proj_out_1(F.silu(first)))


class PixArtBackbone(TransformerBackbone):
    """PixArt-alpha and -sigma (arXiv 2310.00426, 2403.04692): T5 text, one shared modulation."""

    model = PixArtTransformer2DModel
    legacy_norm = 'ada_norm_single'
    schedule = DDPM

    def _check(self) -> None:
        config = self.transformer.config
        check_prompt(config.caption_channels or config.cross_attention_dim, self.prompt)

    def run(self, tokens: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(B, N, D) -> patches (B, N, p * p * c), and the outputs of the tapped blocks."""
        net, batch = self.transformer, len(tokens)
        modulation, embedding = net.adaln_single(
            self.timestep, self._sizes(tokens), batch_size=1, hidden_dtype=tokens.dtype
        )
        text = self.prompt.to(tokens.dtype)
        if net.caption_projection is not None:
            text = net.caption_projection(text)
        frozen = (None, text.expand(batch, -1, -1), None, modulation.expand(batch, -1), None, None)
        levels = []
        for number, block in enumerate(self.blocks, 1):
            tokens = self._run_block(block, tokens, *frozen)
            if number in self.taps:
                levels.append(tokens)
        shift, scale = (net.scale_shift_table[None] + embedding[:, None]).chunk(2, dim=1)
        return net.proj_out(net.norm_out(tokens) * (1 + scale) + shift), levels

    def fold_condition(self) -> None:
        """Replace the modulation and the keys and values of the text by constants."""
        net = self.transformer
        like = net.proj_out.weight
        modulation = net.adaln_single(
            self.timestep, self._sizes(like), batch_size=1, hidden_dtype=like.dtype
        )
        text = self.prompt.to(like.dtype)
        if net.caption_projection is not None:
            text = net.caption_projection(text)
            net.caption_projection = FrozenOutput(text)
        for block in self.blocks:
            split = (block.attn2.heads, -1)
            key, value = (
                to(text)[0].unflatten(1, split).transpose(0, 1)
                for to in (block.attn2.to_k, block.attn2.to_v)
            )
            block.attn2 = ConstantTokens(block.attn2, key, value)
        net.adaln_single = FrozenOutput(*modulation)

    def _sizes(self, like: Tensor) -> dict[str, Tensor] | None:
        """Return the size condition of the 1024-pixel PixArt-alpha model, None for others."""
        if not self.transformer.use_additional_conditions:
            return None
        side_px = float(self.transformer.config.sample_size * self.stride)
        return {
            'resolution': like.new_tensor([[side_px, side_px]]),
            'aspect_ratio': like.new_tensor([[1.0]]),
        }


class MMDiTBackbone(TransformerBackbone):
    """Stable Diffusion 3 and 3.5 (arXiv 2403.03206): text and image share their attention."""

    model = SD3Transformer2DModel
    schedule: ClassVar[Mapping[str, Any]] = {'_class_name': 'FlowMatchEulerDiscreteScheduler'}

    def _check(self) -> None:
        check_prompt(self.transformer.config.joint_attention_dim, self.prompt)
        check_pooled(self.transformer.config.pooled_projection_dim, self.pooled)

    def embed(self, latent: Tensor) -> Tensor:
        """
        (B, c or 2c, h, w) -> (B, N, D) tokens.

        Positions are cut out of the middle of a table, as in training; beyond its size, the
        middle of the table is stretched.
        """
        patches = self.transformer.pos_embed
        tokens = patches.proj(latent)
        rows, columns = tokens.shape[-2:]
        side = patches.pos_embed_max_size
        table = patches.pos_embed.view(1, side, side, -1).permute(0, 3, 1, 2)
        factor = max(1.0, rows / side, columns / side)
        cut = [max(1, round(count / factor)) for count in (rows, columns)]
        top, left = ((side - count) // 2 for count in cut)
        table = table[..., top : top + cut[0], left : left + cut[1]]
        if factor > 1:
            table = F.interpolate(table.float(), (rows, columns), mode='bicubic')
        placed: Tensor = tokens + table.to(tokens.dtype)
        return placed.flatten(2).transpose(1, 2)

    def run(self, tokens: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(B, N, D) -> patches (B, N, p * p * c), and the outputs of the tapped blocks."""
        net = self.transformer
        embedding, text = self._condition(tokens.dtype)
        text = text.expand(len(tokens), -1, -1)
        levels = []
        for number, block in enumerate(self.blocks, 1):
            text, tokens = self._run_block(block, tokens, text, embedding)
            if number in self.taps:
                levels.append(tokens)
        return net.proj_out(net.norm_out(tokens, embedding)), levels

    def fold_condition(self) -> None:
        """Replace embeddings and modulations by constants; the text remains an input."""
        net = self.transformer
        embedding, text = self._condition(net.proj_out.weight.dtype)
        net.time_text_embed, net.context_embedder = FrozenOutput(embedding), FrozenOutput(text)
        for module in [*net.modules()]:
            if type(module).__name__.endswith(('AdaLayerNormZero', 'Continuous', 'NormZeroX')):
                module.linear = FrozenOutput(module.linear(F.silu(embedding)))

    def _condition(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return the embedding of time and pooled text, (1, D), and the text's tokens."""
        assert self.pooled is not None
        net = self.transformer
        embedding: Tensor = net.time_text_embed(self.timestep, self.pooled.to(dtype))
        text: Tensor = net.context_embedder(self.prompt.to(dtype))
        return embedding, text


FAMILIES: tuple[type[TransformerBackbone], ...] = (DiTBackbone, PixArtBackbone, MMDiTBackbone)


class FrozenOutput(nn.Module):
    """The output of a module for the frozen condition; it takes any input and ignores it."""

    def __init__(self, *values: Tensor) -> None:
        super().__init__()
        for number, value in enumerate(values):
            self.register_buffer(f'value_{number}', value.detach().clone())

    def forward(self, *_inputs: Any, **_options: Any) -> Tensor | tuple[Tensor, ...]:
        """Return the value, or all of them."""
        values = tuple(self.buffers())
        return values[0] if len(values) == 1 else values
