"""Read and write the folders of diffusers models: config.json and safetensors, never pickle."""

from __future__ import annotations

from collections.abc import Collection, Mapping
import hashlib
import json
from pathlib import Path
from typing import Any, TypeVar

from diffusers import AutoencoderKL, ModelMixin
from diffusers.models.embeddings import get_2d_sincos_pos_embed, PatchEmbed
import numpy as np
from safetensors import safe_open, SafetensorError
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
INDEXES = tuple(
    f'{kind}.safetensors.index{variant}.json'
    for variant in ('', '.fp16')
    for kind in ('diffusion_pytorch_model', 'model')
)
CONFIGS = Path(__file__).parent / 'configs'


class Reader:
    """
    Read weight files, check their hashes, and remember them.

    :param sha256: what a file must hash to, by the end of its path, such as
        `unet/diffusion_pytorch_model.safetensors`.
    :param device: 'cpu', or 'meta' for shapes alone, which reads and hashes nothing.
    :ivar hashes: SHA-256 of each file read, by path.
    """

    def __init__(self, sha256: Mapping[str, str] | None = None, device: str = 'cpu') -> None:
        self.sha256 = dict(sha256 or {})
        self.device = device
        self.hashes: dict[str, str] = {}

    def read(self, path: Path) -> dict[str, Tensor]:
        """
        Read a safetensors file, or the ones in a model folder.

        :raises FileNotFoundError: nothing there.
        :raises ValueError: a file is not intact, or another one than its hash says.
        """
        tensors: dict[str, Tensor] = {}
        for file in weights_files(path):
            self.check(file)
            try:
                tensors |= _shapes(file) if self.device == 'meta' else load_file(file)
            except SafetensorError as error:
                raise ValueError(
                    f'{file} is not an intact safetensors file ({error}); copy it again'
                ) from None
        return tensors

    def check(self, file: Path) -> None:
        """Hash a file and compare it with what was expected, if anything was."""
        if self.device == 'meta' or str(file) in self.hashes:
            return
        found = self.hashes[str(file)] = file_sha256(file)
        expected = self._expected(file)
        if expected and found != expected.lower():
            raise ValueError(
                f'{file}: expected SHA-256 {expected}, got {found}; it is another file or was '
                'damaged: get it again, or mend sha256 in checkpoint.yaml'
            )

    def check_all_met(self) -> None:
        """Refuse hashes of files that were never read: they protect nothing."""
        read = [_parts(file) for file in self.hashes]
        for name in self.sha256:
            if not any(parts[-len(_parts(name)) :] == _parts(name) for parts in read):
                raise ValueError(
                    f"sha256 names '{name}', but no file with that end was read; those read are "
                    f'{", ".join(self.hashes) or "none"}'
                )

    def _expected(self, file: Path) -> str:
        for name, expected in self.sha256.items():
            if _parts(str(file))[-len(_parts(name)) :] == _parts(name):
                return expected
        return ''


def _parts(path: str) -> tuple[str, ...]:
    return Path(path).parts


def _shapes(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a file without their numbers."""
    with safe_open(file, 'pt') as opened:
        slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
        return {
            name: torch.empty(part.get_shape(), device='meta') for name, part in slices.items()
        }


def file_sha256(file: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with file.open('rb') as opened:
        while block := opened.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def has_weights(path: Path) -> bool:
    """Return whether `weights_files` finds some."""
    return path.is_dir() and any((path / name).is_file() for name in (*WEIGHT_FILES, *INDEXES))


def weights_files(path: Path) -> list[Path]:
    """
    Return a safetensors file itself, or those in a model folder: one, or all of its shards.

    :raises FileNotFoundError: nothing there.
    :raises ValueError: the list of shards is not one.
    """
    if path.is_file():
        return [path]
    for name in WEIGHT_FILES:
        if (path / name).is_file():
            return [path / name]
    for name in INDEXES:
        if (path / name).is_file():
            return _shards(path / name)
    pickled = next((f.name for f in sorted(path.glob('*.bin'))), '') if path.is_dir() else ''
    hint = (
        f'; {pickled} is a pickle, which we never open: save it again as safetensors'
        if pickled
        else ''
    )
    raise FileNotFoundError(
        f'expected a model folder with {WEIGHT_FILES[0]} or {WEIGHT_FILES[1]}, '
        f'found none at {path}{hint}'
    )


def _shards(index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text())['weight_map'].values()))
    except (ValueError, LookupError, AttributeError, TypeError) as error:
        raise ValueError(f'{index} is not a list of weight files ({error})') from None
    for name in names:
        if not (index.parent / Path(name).name).is_file():
            raise FileNotFoundError(f'expected {name} beside {index}, as it says; found none')
    return [index.parent / Path(name).name for name in names]


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a file or model folder as `Reader.read` does, whatever its hash."""
    return Reader().read(path)


def weights_fingerprint(folder: Path) -> str:
    """Return a short name of the weights in a model folder, of their very bytes."""
    return hashlib.sha256(''.join(map(file_sha256, weights_files(folder))).encode()).hexdigest()[
        :16
    ]


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
        *(TypeError, ValueError, LookupError, ArithmeticError, AttributeError),
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
    """Write tensors to a safetensors file, all or nothing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix('.part')
    save_file({k: v.detach().to('cpu', dtype).contiguous() for k, v in tensors.items()}, part)
    part.replace(file)
