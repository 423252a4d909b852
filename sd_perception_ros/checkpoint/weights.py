"""Read and write the folders of diffusers models: config.json and safetensors, never pickle."""

from __future__ import annotations

from collections.abc import Collection, Mapping
import hashlib
import json
from pathlib import Path
from typing import Any, TypeVar

from diffusers import AutoencoderKL, ModelMixin, UNet2DConditionModel
from diffusers.models.embeddings import get_2d_sincos_pos_embed, PatchEmbed
import numpy as np
import torch
from torch import nn, Tensor

from sd_perception_ros.checkpoint.weight_files import (
    file_sha256,
    Reader,
    WEIGHT_FILES,
    weights_files,
)
from sd_perception_ros.safe_save import save_whole

M = TypeVar('M', bound=nn.Module)

CONFIGS = Path(__file__).parent / 'configs'


def weights_fingerprint(folder: Path) -> str:
    """Return a short name of the weights in a model folder, of their very bytes."""
    hashes = [file_sha256(file) for file in weights_files(folder)]
    whole = hashes[0] if len(hashes) == 1 else hashlib.sha256(''.join(hashes).encode()).hexdigest()
    return whole[:16]


def read_embedding(path: Path, reader: Reader | None = None) -> dict[str, Tensor]:
    """
    Read the embedding of a prompt, float32, from a .safetensors or .npy file.

    :returns: 'prompt', (1, tokens, width), and perhaps 'pooled', (1, width). The only tensor of a
        file is the prompt, whatever its name; without a batch dimension it gets one.
    """
    if path.suffix == '.npy':
        if not path.is_file():
            raise FileNotFoundError(f'expected a prompt embedding, found no file {path}')
        try:
            tensors = {'prompt': torch.from_numpy(np.load(path, allow_pickle=False))}
        except (ValueError, EOFError, TypeError) as error:
            raise ValueError(f'{path} is not an array of numbers ({error})') from None
    else:
        tensors = (reader or Reader()).read(path)
    if len(tensors) == 1:
        tensors = dict(zip(['prompt'], tensors.values(), strict=True))
    if 'prompt' not in tensors or set(tensors) - {'prompt', 'pooled'}:
        raise ValueError(
            f"expected one tensor, the embedding, or 'prompt' and 'pooled' in {path}, got "
            f'{", ".join(sorted(tensors)) or "none"}'
        )
    if tensors['prompt'].ndim == 2:  # as GenPercept's first version stored it
        tensors['prompt'] = tensors['prompt'][None]
    return {name: tensor.float() for name, tensor in tensors.items()}


def read_config(folder: Path, fallback: Path | None) -> dict[str, Any]:
    """Read config.json of a model folder, else the fallback folder's or file's."""
    file = folder / 'config.json'
    if not file.is_file() and fallback is not None:
        file = fallback / 'config.json' if fallback.is_dir() else fallback
    if not file.is_file():
        raise FileNotFoundError(f'expected a model folder with config.json, found none at {file}')
    try:
        config = json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f'{file} is not JSON ({error})') from None
    if not isinstance(config, dict):
        raise ValueError(f'{file}: expected a mapping of options, got {type(config).__name__}')
    return config


def load_into(module: M, weights: Mapping[str, Tensor], source: Path) -> M:
    """
    Give a module, which may be on the meta device, the tensors of a file.

    :raises ValueError: tensors are missing, unknown or of another shape.
    """
    own = module.state_dict()
    missing = sorted(own.keys() - weights.keys())
    unknown = sorted(weights.keys() - own.keys())
    both = sorted(own.keys() & weights.keys())
    shapes = [name for name in both if own[name].shape != weights[name].shape]
    for verb, names in (('lacks', missing), ('adds', unknown), ('reshapes', shapes)):
        if names:
            more = f' and {len(names) - 3} more' if len(names) > 3 else ''
            raise ValueError(
                f'{source} does not fit {type(module).__name__}: it {verb} '
                f'{", ".join(names[:3])}{more}; is config.json the one of these weights?'
            )
    # assign: a module made on the meta device has no memory of its own to copy into.
    module.load_state_dict(dict(weights), assign=True)
    return module


def load_vae(folder: Path, reader: Reader | None = None) -> AutoencoderKL:
    """
    Read an autoencoder; its config.json may be missing: then it is Stable Diffusion 2.1's.

    GenPercept's first version ships one without a decoder beside DPT heads: then it only encodes.
    """
    config = read_config(folder, CONFIGS / 'sd21_vae.json')
    weights = modern((reader or Reader()).read(folder))
    encodes_only = not any(name.startswith('decoder.') for name in weights)
    cut_off = ('decoder', 'post_quant_conv') if encodes_only else ()
    return make(AutoencoderKL, config, weights, folder, cut_off)


def load_unet(folder: Path) -> UNet2DConditionModel:
    """Read a denoiser of the UNet kind."""
    return make(UNet2DConditionModel, read_config(folder, None), Reader().read(folder), folder)


def modern(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the attention of autoencoders from before 2023, Stable Diffusion 2.1's included."""
    renamed = {'query': 'to_q', 'key': 'to_k', 'value': 'to_v', 'proj_attn': 'to_out.0'}
    made = {}
    for name, tensor in weights.items():
        for old, new in renamed.items():
            name = name.replace(f'attentions.0.{old}.', f'attentions.0.{new}.')
        made[name] = tensor
    return made


def make(
    cls: type[Any],
    config: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    folder: Path,
    cut_off: Collection[str] = (),
) -> Any:
    """
    Make a model of diffusers from its config and weights, float32.

    :param cut_off: modules that the weights do not have; they become the identity.
    """
    try:
        with torch.device('meta'):  # skips the random initialisation of up to 865 M numbers
            model = cls.from_config(dict(config))
    # What the constructors of diffusers raise on numbers that make no model.
    except (
        TypeError,
        ValueError,
        LookupError,
        ArithmeticError,
        AttributeError,
        NotImplementedError,
    ) as error:
        raise ValueError(f'{folder}: config.json is not one of {cls.__name__} ({error})') from None
    for name in cut_off:
        setattr(model, name, nn.Identity())
    load_into(model, weights, folder)
    for module in model.modules():
        if isinstance(module, PatchEmbed):
            _fill_positions(module)
    return model.float()


def _fill_positions(embed: PatchEmbed) -> None:
    """Compute the table of positions that no file holds, as PatchEmbed itself does."""
    if embed.pos_embed is None or embed.pos_embed.is_meta == embed.proj.weight.is_meta:
        return
    table = get_2d_sincos_pos_embed(
        embed.pos_embed.shape[-1],
        int((embed.height * embed.width) ** 0.5),
        base_size=embed.base_size,
        interpolation_scale=embed.interpolation_scale,
        output_type='pt',
    )
    embed.register_buffer('pos_embed', table.float()[None], persistent=False)


def save_model(folder: Path, model: ModelMixin, dtype: torch.dtype) -> None:
    """Write config.json and the weights, in the layout that diffusers itself reads."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_config(folder)
    save_tensors(folder / WEIGHT_FILES[0], model.state_dict(), dtype)


def save_tensors(
    file: Path, tensors: Mapping[str, Tensor], dtype: torch.dtype = torch.float32
) -> None:
    """
    Write tensors to a safetensors file, all or nothing.

    :raises OSError: there is no room, or no right to.
    """
    whole = {k: v.detach().to('cpu', dtype).contiguous() for k, v in tensors.items()}
    save_whole(file, whole)
