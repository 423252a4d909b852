"""Low-rank adapters (LoRA, arXiv 2106.09685), merged into the weights that they change."""

from __future__ import annotations

from collections.abc import Mapping
import json
from pathlib import Path
import re

from torch import Tensor

# How peft and diffusers, new and old, call the factors of a change of W: W + scale * up @ down.
DOWN = re.compile(r'\.(?:lora_A(?:\.default)?|lora\.down|lora_linear_layer\.down)\.weight$')
UP = re.compile(r'\.(?:lora_B(?:\.default)?|lora\.up|lora_linear_layer\.up)\.weight$')
ALPHA = re.compile(r'\.(?:alpha|lora_alpha)$')
PREFIX = re.compile(r'^(?:base_model\.model\.|unet\.|transformer\.)+')


def has_adapters(names: Mapping[str, object]) -> bool:
    """Return whether weights hold adapters, alone or inside a model."""
    return any(DOWN.search(name) for name in names)


def is_alone(names: Mapping[str, object]) -> bool:
    """Return whether these are adapters without the model that they change."""
    return has_adapters(names) and not any('.base_layer.' in name for name in names)


def merge_adapters(
    weights: Mapping[str, Tensor], base: Mapping[str, Tensor] | None, folder: Path
) -> dict[str, Tensor]:
    """
    Return the weights of a plain model.

    GenPercept's LoRA experiments hold a whole UNet with adapters inside (`to_q.base_layer.weight`,
    `to_q.lora_A.default.weight`); peft and diffusers also write adapters alone. The change is
    alpha / rank * B @ A; alpha is the rank unless the file or adapter_config.json says otherwise.

    :param base: the model that adapters alone belong to.
    :param folder: where the adapters lie, for adapter_config.json and for errors.
    :raises ValueError: there is no base, a factor is missing, or a shape does not fit.
    """
    weights = {PREFIX.sub('', name): tensor for name, tensor in weights.items()}
    factors = [name for name in weights if DOWN.search(name) or UP.search(name)]
    alphas = {
        ALPHA.sub('', name): float(t)
        for name, t in weights.items()
        if ALPHA.search(name) and not t.is_meta
    }
    plain = {
        name.replace('.base_layer.', '.'): tensor
        for name, tensor in weights.items()
        if name not in factors and not ALPHA.search(name)
    }
    if base is not None:
        plain = {**base, **plain}
    elif is_alone(weights):
        raise ValueError(
            f'{folder} holds adapters alone (LoRA); name the model that they change: base: folder'
        )
    config = _adapter_config(folder)
    for name in sorted(n for n in weights if DOWN.search(n)):
        layer = DOWN.sub('', name)
        target, up = f'{layer}.weight', _up_of(weights, layer)
        if up is None or target not in plain:
            missing = 'the other factor of' if up is None else 'the layer of'
            raise ValueError(f'{folder} does not fit its model: it lacks {missing} {name}')
        down = weights[name].float()
        rank = len(down)
        alpha = alphas.get(layer, config.get('lora_alpha', config.get('r', rank)))
        change = up.float().flatten(1) @ down.flatten(1)
        weight = plain[target].float()
        if change.numel() != weight.numel():
            raise ValueError(
                f'{folder} does not fit its model: {layer} is {tuple(weight.shape)}, and its '
                f'adapter makes {tuple(change.shape)}; name the model that it was trained on'
            )
        plain[target] = weight + alpha / rank * change.view_as(weight)
    return plain


def _up_of(weights: Mapping[str, Tensor], layer: str) -> Tensor | None:
    names = (n for n in weights if n.startswith(f'{layer}.') and UP.search(n))
    found = next((n for n in names if UP.sub('', n) == layer), None)
    return None if found is None else weights[found]


def _adapter_config(folder: Path) -> dict[str, float]:
    file = folder / 'adapter_config.json'
    if not file.is_file():
        return {}
    config = json.loads(file.read_text())
    return {name: config[name] for name in ('r', 'lora_alpha') if config.get(name)}
