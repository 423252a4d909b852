"""LoRA adapters (arXiv 2106.09685), merged into the weights of their model."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
import json
import math
from pathlib import Path
import re

from torch import Tensor

from sd_perception_ros.checkpoint.files import read_json
from sd_perception_ros.checkpoint.reader import read_metadata

# Names of the two factors in peft and diffusers, new and old: W + scale * up @ down.
# Inside a model, peft adds the adapter's name, mostly 'default'.
DOWN = re.compile(r'\.(?:lora_A(?:\.[^.]+)?|lora\.down|lora_linear_layer\.down)\.weight$')
UP = re.compile(r'\.(?:lora_B(?:\.[^.]+)?|lora\.up|lora_linear_layer\.up)\.weight$')
NAMED = re.compile(r'\.(?:lora_[AB]|modules_to_save)\.([^.]+)\.(?:weight|bias)$')
TRAINED_WHOLE = re.compile(r'\.modules_to_save\.[^.]+\.')  # a layer that peft replaced
# Tensor names of adapters that are not merged here, and what they are.
FOREIGN = {
    re.compile(r'\.lora_magnitude_vector|\.dora_scale$'): 'DoRA adapters',
    re.compile(r'\.lora_B(?:\.[^.]+)?\.bias$'): 'LoRA adapters with a bias of their own',
    re.compile(r'^lora_(?:unet|te)\w*\.'): "LoRA adapters with kohya's names",
    re.compile(r'\.(?:hada_w|lokr_w|oft_|ia3_|vera_lambda)'): 'adapters other than LoRA',
    re.compile(r'^text_encoder(?:_2)?\.'): 'adapters of a text encoder',
}
# Values of init_lora_weights with which peft changes the base, too.
BASE_CHANGING = ('pissa', 'olora', 'corda', 'loftq')
MERGE_THEM = 'merge them into their model (merge_and_unload of peft, fuse_lora of diffusers)'
METADATA_KEY = 'lora_adapter_metadata'  # of diffusers, in the safetensors header
ALPHA = re.compile(r'\.(?:alpha|lora_alpha)$')
PREFIX = re.compile(r'^(?:base_model\.model\.|unet\.|transformer\.)+')


def has_adapters(names: Collection[str]) -> bool:
    """Return whether tensor names include adapters, with or without a model."""
    return any(DOWN.search(name) for name in names)


def is_adapters_only(names: Collection[str]) -> bool:
    """Return whether these are adapters without their model."""
    return has_adapters(names) and not any('.base_layer.' in name for name in names)


@dataclass(frozen=True)
class LoraOptions:
    """
    Scale of adapters, from peft's LoraConfig.

    :ivar lora_alpha: None: the rank, so that the scale is 1.
    :ivar use_rslora: rank-stabilised LoRA (arXiv 2312.03732).
    :ivar alpha_pattern: regular expression of layer names to another lora_alpha.
    """

    lora_alpha: float | None = None
    use_rslora: bool = False
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        alphas = [*self.alpha_pattern.values(), self.lora_alpha or 1.0]
        if not all(math.isfinite(alpha) for alpha in alphas):
            raise ValueError(f'expected finite numbers for lora_alpha, got {alphas}')
        for pattern in self.alpha_pattern:
            re.compile(pattern)

    def scale(self, layer: str, rank: int, alpha: float | None) -> float:
        """
        Return the factor of up @ down.

        :param layer: name of the changed layer.
        :param alpha: lora_alpha of this layer, if it is stored as a tensor.
        """
        if alpha is None:
            patterns = self.alpha_pattern.items()
            matches = (a for p, a in patterns if re.fullmatch(rf'(.*\.)?({p})', layer))
            alpha = next(matches, self.lora_alpha)
        if alpha is None:
            alpha = rank
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)


def read_lora_options(adapters: Path) -> LoraOptions:
    """
    Read the options of adapters: adapter_config.json of peft, or the metadata of diffusers.

    :param adapters: their folder or safetensors file.
    :raises ValueError: the options are damaged, or the kind is not supported (DoRA).
    """
    folder = adapters if adapters.is_dir() else adapters.parent
    file = folder / 'adapter_config.json'
    if file.is_file():
        options = read_json(file)
    else:
        text = read_metadata(adapters).get(METADATA_KEY, '{}')
        try:
            options = {PREFIX.sub('', name): value for name, value in json.loads(text).items()}
        except (ValueError, AttributeError) as error:
            raise ValueError(f'{adapters}: its {METADATA_KEY} is not JSON ({error})') from None
    kind, start = options.get('peft_type') or 'LORA', options.get('init_lora_weights')
    unsupported = 'DoRA adapters' if options.get('use_dora') else ''
    if kind != 'LORA':
        unsupported = f'adapters of the kind {kind}'
    if isinstance(start, str) and start.lower().startswith(BASE_CHANGING):
        unsupported = f'adapters of init_lora_weights {start}, which also changes the base'
    if unsupported:
        raise ValueError(_not_supported(adapters, unsupported))
    try:
        alpha = options.get('lora_alpha')
        patterns = {p: float(a) for p, a in (options.get('alpha_pattern') or {}).items()}
        return LoraOptions(
            alpha if alpha is None else float(alpha), bool(options.get('use_rslora')), patterns
        )
    except (ValueError, TypeError, AttributeError, re.error) as error:
        raise ValueError(
            f'{adapters}: expected numbers in lora_alpha and alpha_pattern, got {alpha!r} and '
            f'{options.get("alpha_pattern")!r} ({error})'
        ) from None


def refuse_foreign_adapters(names: Collection[str], folder: Path) -> None:
    """
    Refuse adapters that `merge_adapters` cannot merge, by their tensor names.

    :param folder: for the error message.
    :raises ValueError: other adapters than LoRA, or several adapters in one model.
    """
    names = [PREFIX.sub('', name) for name in names]
    for pattern, kind in FOREIGN.items():
        if any(pattern.search(name) for name in names):
            raise ValueError(_not_supported(folder, kind))
    adapters = sorted({match[1] for name in names if (match := NAMED.search(name))})
    if len(adapters) > 1:
        raise ValueError(_not_supported(folder, f'several adapters ({", ".join(adapters)})'))


def _not_supported(folder: Path, kind: str) -> str:
    return f'{folder} has {kind}, which are not supported; {MERGE_THEM} and save that'


def merge_adapters(
    weights: Mapping[str, Tensor],
    base: Mapping[str, Tensor] | None,
    options: LoraOptions,
    folder: Path,
) -> dict[str, Tensor]:
    """
    Return the weights of a model without adapters: W + scale * up @ down.

    GenPercept's LoRA experiments store a UNet with adapters inside (`to_q.base_layer.weight`,
    `to_q.lora_A.default.weight`); peft and diffusers also write adapters alone.

    :param base: weights of the model, for adapters without a model.
    :param folder: of the adapters, for error messages.
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
        TRAINED_WHOLE.sub('.', name.replace('.base_layer.', '.')): tensor
        for name, tensor in weights.items()
        if name not in factors and not ALPHA.search(name) and '.original_module.' not in name
    }
    if base is not None:
        merged = {**base, **merged}
    elif is_adapters_only(weights):
        raise ValueError(f'{folder} has LoRA adapters only; name their model: base: folder')
    ups = {UP.sub('', name): tensor for name, tensor in weights.items() if UP.search(name)}
    for name in sorted(n for n in weights if DOWN.search(n)):
        layer = DOWN.sub('', name)
        target, up = f'{layer}.weight', ups.get(layer)
        if up is None or target not in merged:
            missing = 'the other factor of' if up is None else 'the layer of'
            raise ValueError(f'{folder} does not fit its model: it lacks {missing} {name}')
        down = weights[name].float()
        if min(up.ndim, down.ndim) < 2 or up.shape[1] != len(down):
            raise ValueError(
                f'{folder}: the factors of {layer} are {tuple(up.shape)} and {tuple(down.shape)}, '
                'of different ranks; copy it again'
            )
        change = up.float().flatten(1) @ down.flatten(1)
        weight = merged[target].float()
        if change.numel() != weight.numel():
            raise ValueError(
                f'{folder} does not fit its model: {layer} is {tuple(weight.shape)}, and its '
                f'adapter makes {tuple(change.shape)}; name the model that it was trained on'
            )
        scale = options.scale(layer, len(down), alphas.get(layer))
        merged[target] = weight + scale * change.view_as(weight)
    return merged
