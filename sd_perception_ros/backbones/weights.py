"""Read and write the folders of diffusers models: config.json and safetensors, never pickle."""

from __future__ import annotations

from collections.abc import Collection, Mapping
import hashlib
import json
from pathlib import Path
from typing import Any, TypeVar

from diffusers import AutoencoderKL, ModelMixin, UNet2DConditionModel
import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
import torch
from torch import nn, Tensor

M = TypeVar('M', bound=nn.Module)

# The order is the order of preference; fp16 variants serve where the full file is missing.
WEIGHT_FILES = (
    'diffusion_pytorch_model.safetensors',
    'model.safetensors',
    'diffusion_pytorch_model.fp16.safetensors',
    'model.fp16.safetensors',
)
LAST = ('conv_norm_out', 'conv_act', 'conv_out')  # of a UNet
CONFIGS = Path(__file__).parent / 'configs'


def weights_file(path: Path) -> Path:
    """
    Return a safetensors file itself, or the one in a model folder.

    :raises FileNotFoundError: nothing there.
    """
    file = path
    if path.is_dir():
        file = next((path / name for name in WEIGHT_FILES if (path / name).is_file()), path)
    if not file.is_file():
        raise FileNotFoundError(
            f'expected a model folder with {WEIGHT_FILES[0]} or {WEIGHT_FILES[1]}, '
            f'found none at {path}'
        )
    return file


def read_weights(path: Path) -> dict[str, Tensor]:
    """
    Read a safetensors file, or the one in a model folder.

    :raises FileNotFoundError: nothing there.
    :raises ValueError: the file is not intact.
    """
    file = weights_file(path)
    try:
        return load_file(file)
    except SafetensorError as error:
        raise ValueError(
            f'{file} is not an intact safetensors file ({error}); copy it again'
        ) from None


def weights_fingerprint(folder: Path) -> str:
    """Return a short name of the weights in a model folder, of their very bytes."""
    return hashlib.sha256(weights_file(folder).read_bytes()).hexdigest()[:16]


def read_embedding(path: Path) -> Tensor:
    """Read the only tensor of a .safetensors or .npy file as (1, tokens, width) float32."""
    if path.suffix == '.npy':
        if not path.is_file():
            raise FileNotFoundError(f'expected a prompt embedding, found no file {path}')
        try:
            return torch.from_numpy(np.load(path, allow_pickle=False)).float()
        except (ValueError, EOFError, TypeError) as error:
            raise ValueError(f'{path} is not an array of numbers ({error})') from None
    tensors = read_weights(path)
    if len(tensors) != 1:
        raise ValueError(f'expected one tensor, the embedding, in {path}, got {len(tensors)}')
    return next(iter(tensors.values())).float()


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


def load_vae(folder: Path) -> AutoencoderKL:
    """Read an autoencoder; its config.json may be missing: then it is Stable Diffusion 2.1's."""
    config = read_config(folder, CONFIGS / 'sd21_vae.json')
    weights = {_modern(name): tensor for name, tensor in read_weights(folder).items()}
    return _load(AutoencoderKL, config, weights, folder)


def load_unet(folder: Path, fallback: Path | None = None) -> UNet2DConditionModel:
    """
    Read a UNet; without config.json it has the fallback's, else Stable Diffusion 2.1's.

    Official checkpoints with a DPT head lack the last convolution and its normalisation: then
    both are the identity, and the UNet is good for its features only.
    """
    config = read_config(folder, fallback or CONFIGS / 'sd21_unet.json')
    weights = read_weights(folder)
    cut_off = not any(name.startswith('conv_out.') for name in weights)
    return _load(UNet2DConditionModel, config, weights, folder, LAST if cut_off else ())


def _modern(name: str) -> str:
    """Rename the attention of autoencoders from before 2023, Stable Diffusion 2.1's included."""
    renamed = {'query': 'to_q', 'key': 'to_k', 'value': 'to_v', 'proj_attn': 'to_out.0'}
    for old, new in renamed.items():
        name = name.replace(f'attentions.0.{old}.', f'attentions.0.{new}.')
    return name


def _load(
    cls: type[Any],
    config: dict[str, Any],
    weights: dict[str, Tensor],
    folder: Path,
    cut_off: Collection[str] = (),
) -> Any:
    try:
        with torch.device('meta'):  # skips the random initialisation of up to 865 M numbers
            model = cls.from_config(config)
    # What the constructors of diffusers raise on numbers that make no model.
    except (TypeError, ValueError, LookupError, ArithmeticError, AttributeError) as error:
        raise ValueError(f'{folder}: config.json is not one of {cls.__name__} ({error})') from None
    for name in cut_off:
        setattr(model, name, nn.Identity())
    return load_into(model, weights, folder).float()


def save_model(folder: Path, model: ModelMixin, dtype: torch.dtype) -> None:
    """Write config.json and the weights, in the layout that diffusers itself reads."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_config(folder)
    save_tensors(folder / WEIGHT_FILES[0], model.state_dict(), dtype)


def save_tensors(
    file: Path, tensors: Mapping[str, Tensor], dtype: torch.dtype = torch.float32
) -> None:
    """Write tensors to a safetensors file, all or nothing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix('.part')
    save_file({k: v.detach().to('cpu', dtype).contiguous() for k, v in tensors.items()}, part)
    part.replace(file)
