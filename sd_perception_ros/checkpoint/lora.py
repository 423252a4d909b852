"""LoRA adapters (arXiv 2106.09685), merged into the weights that they change."""

from __future__ import annotations

from collections.abc import Collection, Mapping
import json
from pathlib import Path
import re

from torch import Tensor

# Names of the two factors in peft and diffusers, new and old: W + scale * up @ down.
DOWN = re.compile(r'\.(?:lora_A(?:\.default)?|lora\.down|lora_linear_layer\.down)\.weight$')
UP = re.compile(r'\.(?:lora_B(?:\.default)?|lora\.up|lora_linear_layer\.up)\.weight$')
ALPHA = re.compile(r'\.(?:alpha|lora_alpha)$')
PREFIX = re.compile(r'^(?:base_model\.model\.|unet\.|transformer\.)+')


def has_adapters(names: Collection[str]) -> bool:
    """Return whether tensor names include adapters, alone or inside a model."""
    return any(DOWN.search(name) for name in names)


def is_adapters_only(names: Collection[str]) -> bool:
    """Return whether these are adapters without the model that they change."""
    return has_adapters(names) and not any('.base_layer.' in name for name in names)


def merge_adapters(
    weights: Mapping[str, Tensor], base: Mapping[str, Tensor] | None, folder: Path
) -> dict[str, Tensor]:
    """
    Return the weights of a model without adapters: W + alpha / rank * up @ down.

    GenPercept's LoRA experiments store a UNet with adapters inside (`to_q.base_layer.weight`,
    `to_q.lora_A.default.weight`); peft and diffusers also write adapters alone. alpha is the rank,
    unless the file or adapter_config.json gives another value.

    :param base: weights of the model that adapters alone belong to.
    :param folder: of the adapters, for adapter_config.json and error messages.
    :raises ValueError: no base, a missing factor, or a shape that does not fit.
    """
    weights = {PREFIX.sub('', name): tensor for name, tensor in weights.items()}
    factors = [name for name in weights if DOWN.search(name) or UP.search(name)]
    alphas = {
        ALPHA.sub('', name): float(t)
        for name, t in weights.items()
        if ALPHA.search(name) and not t.is_meta
    }
    merged = {
        name.replace('.base_layer.', '.'): tensor
        for name, tensor in weights.items()
        if name not in factors and not ALPHA.search(name)
    }
    if base is not None:
        merged = {**base, **merged}
    elif is_adapters_only(weights):
        raise ValueError(
            f'{folder} has LoRA adapters only; name the model that they change: base: folder'
        )
    config = _adapter_config(folder)
    ups = {UP.sub('', name): tensor for name, tensor in weights.items() if UP.search(name)}
    for name in sorted(n for n in weights if DOWN.search(n)):
        layer = DOWN.sub('', name)
        target, up = f'{layer}.weight', ups.get(layer)
        if up is None or target not in merged:
            missing = 'the other factor of' if up is None else 'the layer of'
            raise ValueError(f'{folder} does not fit its model: it lacks {missing} {name}')
        down = weights[name].float()
        rank = len(down)
        alpha = alphas.get(layer, config.get('lora_alpha', config.get('r', rank)))
        change = up.float().flatten(1) @ down.flatten(1)
        weight = merged[target].float()
        if change.numel() != weight.numel():
            raise ValueError(
                f'{folder} does not fit its model: {layer} is {tuple(weight.shape)}, and its '
                f'adapter makes {tuple(change.shape)}; name the model that it was trained on'
            )
        merged[target] = weight + alpha / rank * change.view_as(weight)
    return merged


def _adapter_config(folder: Path) -> dict[str, float]:
    file = folder / 'adapter_config.json'
    if not file.is_file():
        return {}
    config = json.loads(file.read_text())
    return {name: config[name] for name in ('r', 'lora_alpha') if config.get(name)}
