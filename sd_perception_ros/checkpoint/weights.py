"""Read and write model folders of diffusers: config.json and safetensors, never a pickle."""

from __future__ import annotations

from collections.abc import Collection, Mapping
import hashlib
from pathlib import Path
from typing import Any, TypeVar

from diffusers import AutoencoderKL, AutoencoderTiny, ModelMixin, UNet2DConditionModel
from diffusers.models.embeddings import get_2d_sincos_pos_embed, PatchEmbed
import numpy as np
import torch
from torch import nn, Tensor

from sd_perception_ros.backbones.autoencoders import DECODER, ENCODER, has_half, VAE
from sd_perception_ros.checkpoint.files import read_json
from sd_perception_ros.checkpoint.reader import Reader
from sd_perception_ros.checkpoint.weight_files import (
    file_sha256,
    WEIGHTS,
    weights_files,
)
from sd_perception_ros.safe_save import save_safetensors

M = TypeVar('M', bound=nn.Module)

CONFIGS = Path(__file__).parent / 'configs'


def weights_fingerprint(folder: Path) -> str:
    """Return the first 16 digits of the SHA-256 of a model folder's weight files."""
    hashes = [file_sha256(file) for file in weights_files(folder)]
    if len(hashes) > 1:
        return hashlib.sha256(''.join(hashes).encode()).hexdigest()[:16]
    return hashes[0][:16]


def read_embedding(path: Path, reader: Reader) -> dict[str, Tensor]:
    """
    Read the embedding of a prompt from a .safetensors or .npy file.

    :returns: 'prompt', (1, tokens, width) float32, and for SDXL and SD3 'pooled', (1, width)
        float32. A single tensor may have any name, and no batch dimension.
    :raises FileNotFoundError: there is no such file.
    :raises ValueError: the file is damaged, or has other tensors.
    """
    if path.suffix == '.npy':
        if not path.is_file():
            raise FileNotFoundError(f'expected a prompt embedding, found no file {path}')
        reader.check(path)
        try:
            tensors = {'prompt': torch.from_numpy(np.load(path, allow_pickle=False))}
        except (ValueError, EOFError, TypeError) as error:
            raise ValueError(f'{path} is not an array of numbers ({error})') from None
    else:
        tensors = reader.read(path)
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


def read_model_config(folder: Path, fallback: Path | None) -> dict[str, Any]:
    """
    Read config.json of a model folder.

    :param fallback: folder or file to read if the model folder has no config.json.
    :raises FileNotFoundError: neither has one.
    :raises ValueError: it is not a JSON object.
    """
    file = folder / 'config.json'
    if not file.is_file() and fallback is not None:
        file = fallback / 'config.json' if fallback.is_dir() else fallback
    if not file.is_file():
        raise FileNotFoundError(f'expected a model folder with config.json, found none at {file}')
    return read_json(file)


def load_into(module: M, weights: Mapping[str, Tensor], source: Path) -> M:
    """
    Load weights into a module, which may be on the meta device.

    :param source: file or folder of the weights, for the error message.
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


def load_vae(folder: Path, reader: Reader, decodes: bool = True, encodes: bool = True) -> VAE:
    """
    Read an autoencoder in float32; without config.json it is that of Stable Diffusion 2.1.

    GenPercept's first version has DPT heads and an autoencoder without decoder: it only encodes.

    :param decodes: whether the decoder is needed; otherwise it is left out.
    :param encodes: the same for the encoder.
    """
    config = read_model_config(folder, CONFIGS / 'sd21_vae.json')
    if _is_tiny(config):
        return _load_half(AutoencoderTiny, config, folder, reader, decodes, encodes)
    return _load_half(AutoencoderKL, config, folder, reader, decodes, encodes)


def load_tiny(folder: Path, reader: Reader, encodes: bool) -> AutoencoderTiny:
    """
    Read the encoder or the decoder of a tiny autoencoder, in float32.

    :param encodes: the encoder; False: the decoder.
    :raises ValueError: another kind of autoencoder, or it lacks that half.
    """
    config = read_model_config(folder, None)
    if not _is_tiny(config):
        got = config.get('_class_name', 'a config.json without _class_name')
        raise ValueError(
            f'expected an AutoencoderTiny at {folder}, got {got}; name other autoencoders in vae'
        )
    tiny = _load_half(AutoencoderTiny, config, folder, reader, not encodes, encodes)
    if not encodes and not has_half(tiny, DECODER):
        raise ValueError(f'tiny_decoder: expected a decoder in {folder}, which has none')
    return tiny


def _is_tiny(config: Mapping[str, Any]) -> bool:
    return config.get('_class_name') == 'AutoencoderTiny'


def _load_half(
    cls: type[Any],
    config: Mapping[str, Any],
    folder: Path,
    reader: Reader,
    decodes: bool,
    encodes: bool,
) -> Any:
    """Read an autoencoder; a half that is not needed, or a decoder without weights, is absent."""
    if cls is AutoencoderTiny:  # diffusers writes this key and warns when it reads it
        config = {key: value for key, value in config.items() if key != 'block_out_channels'}
    weights = with_current_names(reader.read(folder))
    decodes = decodes and any(name.startswith('decoder.') for name in weights)
    absent = (*(() if decodes else DECODER), *(() if encodes else ENCODER))
    unused = tuple(f'{name}.' for name in absent)
    weights = {name: t for name, t in weights.items() if not name.startswith(unused)}
    return build_module(cls, config, weights, folder, absent)


def load_unet(folder: Path, reader: Reader) -> UNet2DConditionModel:
    """Read a UNet that has its own config.json, in float32."""
    config = read_model_config(folder, None)
    return build_module(UNet2DConditionModel, config, reader.read(folder), folder)


def with_current_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the attention layers of autoencoders from before 2023, such as that of SD 2.1."""
    new_names = {'query': 'to_q', 'key': 'to_k', 'value': 'to_v', 'proj_attn': 'to_out.0'}
    renamed = {}
    for name, tensor in weights.items():
        for old, new in new_names.items():
            name = name.replace(f'attentions.0.{old}.', f'attentions.0.{new}.')
        renamed[name] = tensor
    return renamed


def build_module(
    cls: type[Any],
    config: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    folder: Path,
    absent: Collection[str] = (),
) -> Any:
    """
    Make a model of diffusers from its config and weights, in float32.

    :param folder: of the model, for error messages.
    :param absent: modules without weights; they become the identity.
    :raises ValueError: the config describes no model, or the weights do not fit it.
    """
    try:
        with torch.device('meta'):  # skips the random initialisation of up to 865 M numbers
            model = cls.from_config(dict(config))
    # The constructors of diffusers raise these on impossible options.
    except (
        TypeError,
        ValueError,
        LookupError,
        ArithmeticError,
        AttributeError,
        NotImplementedError,
    ) as error:
        raise ValueError(f'{folder}: config.json is not one of {cls.__name__} ({error})') from None
    for name in absent:
        setattr(model, name, nn.Identity())
    load_into(model, weights, folder)
    for module in model.modules():
        if isinstance(module, PatchEmbed):
            _fill_positions(module)
    return model.float()


def _fill_positions(embed: PatchEmbed) -> None:
    """Compute the table of positions, which weight files leave out, as PatchEmbed itself does."""
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
    """Write config.json and the weights in the layout of diffusers."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_config(folder)
    save_tensors(folder / WEIGHTS, model.state_dict(), dtype)


def save_tensors(
    file: Path, tensors: Mapping[str, Tensor], dtype: torch.dtype = torch.float32
) -> None:
    """
    Write tensors to a safetensors file, atomically.

    :param tensors: by name, on any device; stored as `dtype`.
    :raises OSError: the file cannot be written.
    """
    stored = {name: t.detach().to('cpu', dtype).contiguous() for name, t in tensors.items()}
    save_safetensors(file, stored)
