"""
Fold a frozen timestep and a frozen prompt into the weights of a Stable Diffusion model.

Values that depend only on timestep and prompt are computed once: 78 M of the 866 M parameters of
Stable Diffusion 2.1's UNet are dropped, and outputs stay equal up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
import contextlib
from typing import Any

from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.resnet import ResnetBlock2D
import torch
from torch import nn, Tensor
import torch.nn.functional as F

# Blocks that pass the timestep to residual blocks and the prompt to cross attention only.
_PLAIN = {'DownBlock2D', 'CrossAttnDownBlock2D', 'UpBlock2D', 'CrossAttnUpBlock2D'}


class FoldedUNet(nn.Module):
    """
    A UNet at one timestep with one prompt: the modules of diffusers that depend on the image.

    :param unet: its modules are used; it cannot be used itself afterwards.
    """

    def __init__(self, unet: UNet2DConditionModel) -> None:
        super().__init__()
        self.conv_in = unet.conv_in
        self.down_blocks = unet.down_blocks
        self.mid_block = unet.mid_block
        self.up_blocks = unet.up_blocks
        self.conv_norm_out = unet.conv_norm_out
        self.conv_act = unet.conv_act
        self.conv_out = unet.conv_out

    def forward(self, latent: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """(B, c, h, w) -> the UNet's output, and its levels, coarse first."""
        hidden = self.conv_in(latent)
        skips = [hidden]
        for block in self.down_blocks:
            hidden, passed = block(hidden)
            skips += passed
        if self.mid_block is not None:
            hidden = self.mid_block(hidden)
        levels = []
        for block in self.up_blocks:
            count = len(block.resnets)
            block_skips, skips = tuple(skips[-count:]), skips[:-count]
            # An odd size was rounded up on the way down.
            size = skips[-1].shape[-2:] if skips else None
            hidden = block(hidden, block_skips, upsample_size=size)
            levels.append(hidden)
        if self.conv_norm_out is not None:
            hidden = self.conv_act(self.conv_norm_out(hidden))
        return self.conv_out(hidden), tuple(levels)


def foldable(unet: UNet2DConditionModel) -> bool:
    """Return whether `fold_unet` supports all uses of timestep and prompt in this UNet."""
    config = unet.config
    only_cross = config.only_cross_attention
    return (
        {*config.down_block_types, *config.up_block_types} <= _PLAIN
        and config.mid_block_type in (None, 'UNetMidBlock2DCrossAttn')
        and not (any(only_cross) if isinstance(only_cross, list | tuple) else only_cross)
        and not config.mid_block_only_cross_attention
        and not config.dual_cross_attention
        and not config.center_input_sample
        and config.resnet_time_scale_shift == 'default'
        and config.attention_type == 'default'
        and config.addition_embed_type in (None, 'text', 'text_time')
    )


@torch.no_grad()
def fold_unet(unet: UNet2DConditionModel, run: Callable[[], object]) -> FoldedUNet:
    """
    Fold timestep and prompt into a UNet's weights; `unet` cannot be used afterwards.

    :param unet: one that is `foldable`.
    :param run: runs it once, on any latent, with its timestep and prompt.
    """
    with _recorded_conditions(unet) as conditions:
        run()
    for module, condition in conditions.items():
        if isinstance(module, ResnetBlock2D):
            _fold_timestep(module, condition)
        else:
            _fold_prompt(module, condition)
    return FoldedUNet(unet)


@torch.no_grad()
def fold_encoder(vae: AutoencoderKL, scaling_factor: float) -> None:
    """Make an encoder output the scaled mean; its log-variances and `quant_conv` are dropped."""
    if encoder_is_folded(vae):
        return
    last, channels = vae.encoder.conv_out, vae.config.latent_channels
    weight, bias = last.weight[:channels], last.bias[:channels]
    if vae.quant_conv is not None:  # 1 x 1, so that the two convolutions are one
        mean = vae.quant_conv.weight[:channels, :, 0, 0]
        weight = torch.einsum('om,mikl->oikl', mean, last.weight)
        bias = mean @ last.bias + vae.quant_conv.bias[:channels]
        vae.quant_conv = None
    last.weight, last.bias = _fixed(weight * scaling_factor), _fixed(bias * scaling_factor)
    last.out_channels = channels


def encoder_is_folded(vae: AutoencoderKL) -> bool:
    """Return whether the encoder outputs the scaled mean only."""
    return bool(vae.encoder.conv_out.out_channels == vae.config.latent_channels)


class _TwoTokens(nn.Module):
    """
    Attention to two constant tokens: the softmax of two is a sigmoid of their difference.

    The output of each head is v0 + w (v1 - v0) with w = sigmoid(scale q . (k1 - k0)).
    """

    def __init__(self, attention: Any, key: Tensor, value: Tensor) -> None:
        super().__init__()
        heads, head_width = key.shape[0], key.shape[2]
        to_q, to_out = attention.to_q, attention.to_out[0]
        away = (key[:, 1] - key[:, 0]) * head_width**-0.5
        step = value[:, 1] - value[:, 0]
        read = to_q.weight.view(heads, head_width, -1)
        written = to_out.weight.view(-1, heads, head_width)
        self.read_weight = _fixed(torch.einsum('hd,hdc->hc', away, read))
        self.read_bias = (
            None if to_q.bias is None else _fixed((away * to_q.bias.view(heads, -1)).sum(1))
        )
        self.write_weight = _fixed(torch.einsum('chd,hd->ch', written, step))
        self.write_bias = _fixed(_output_of_token(to_out, value[:, 0]))

    def forward(self, hidden: Tensor, **_: object) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        share = F.linear(hidden, self.read_weight, self.read_bias).sigmoid()
        return F.linear(share, self.write_weight, self.write_bias)


class ConstantTokens(nn.Module):
    """Attention to constant tokens, with stored keys and values (heads, T, width of a head)."""

    def __init__(self, attention: Any, key: Tensor, value: Tensor) -> None:
        super().__init__()
        self.to_q, self.to_out = attention.to_q, attention.to_out[0]
        self.key, self.value = _fixed(key), _fixed(value)

    def forward(self, hidden: Tensor, **_: object) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        count = len(hidden)
        query = self.to_q(hidden).unflatten(2, (len(self.key), -1)).transpose(1, 2)
        key, value = (kept.expand(count, -1, -1, -1) for kept in (self.key, self.value))
        output = F.scaled_dot_product_attention(query, key, value)
        folded: Tensor = self.to_out(output.transpose(1, 2).flatten(2))
        return folded


def _fold_timestep(block: ResnetBlock2D, embedding: Tensor) -> None:
    """Add the timestep's shift of a residual block to the bias of its first convolution."""
    if not block.skip_time_act:
        embedding = block.nonlinearity(embedding)
    shift = block.time_emb_proj(embedding)[0]
    block.conv1.bias = _fixed(block.conv1.bias + shift)
    block.time_emb_proj = None


def _fold_prompt(block: BasicTransformerBlock, prompt: Tensor) -> None:
    """Replace a transformer block's cross attention for a constant prompt (1, T, D)."""
    attention = block.attn2
    split = (attention.heads, -1)
    key, value = (
        to(prompt)[0].unflatten(1, split).transpose(0, 1)
        for to in (attention.to_k, attention.to_v)
    )
    if _all_equal(prompt):  # any weighted mean of equal values is that value
        before = block.attn1.to_out[0]
        constant = _output_of_token(attention.to_out[0], value[:, 0])
        before.bias = _fixed(constant if before.bias is None else before.bias + constant)
        block.attn2 = block.norm2 = None
    elif prompt.shape[1] == 2:
        block.attn2 = _TwoTokens(attention, key, value)
    else:
        block.attn2 = ConstantTokens(attention, key, value)


def _output_of_token(to_out: nn.Linear, value: Tensor) -> Tensor:
    """(heads, width) values of one token -> (C,), the output of attention to this token alone."""
    return F.linear(value.flatten(), to_out.weight, to_out.bias)


def _all_equal(prompt: Tensor) -> bool:
    """Return whether all tokens are equal; False for several tokens on the meta device."""
    return prompt.shape[1] == 1 or (not prompt.is_meta and bool((prompt == prompt[:, :1]).all()))


def _fixed(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor.detach().clone(), requires_grad=False)


@contextlib.contextmanager
def _recorded_conditions(unet: UNet2DConditionModel) -> Iterator[dict[nn.Module, Tensor]]:
    """Record the time embedding of residual blocks and the prompt of transformer blocks."""
    conditions: dict[nn.Module, Tensor] = {}

    def record(module: nn.Module, values: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
        if isinstance(module, ResnetBlock2D):
            conditions[module] = values[1] if len(values) > 1 else named['temb']
        else:
            conditions[module] = named['encoder_hidden_states']

    hooks = [
        module.register_forward_pre_hook(record, with_kwargs=True)
        for module in unet.modules()
        if isinstance(module, ResnetBlock2D | BasicTransformerBlock)
    ]
    try:
        yield conditions
    finally:
        for hook in hooks:
            hook.remove()
