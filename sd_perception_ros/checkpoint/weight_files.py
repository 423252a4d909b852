"""Find weight files: safetensors, one file or several shards; never a pickle. No torch."""

from __future__ import annotations

import hashlib
from pathlib import Path

from sd_perception_ros.checkpoint.files import check_location, read_json

WEIGHTS = 'diffusion_pytorch_model.safetensors'
# In order of preference, as in diffusers: shards before one file, full precision before fp16.
WEIGHT_FILES = (
    *(f'{WEIGHTS}.index.json', WEIGHTS, 'model.safetensors.index.json', 'model.safetensors'),
    *(
        f'{model}.{name}'
        for model in ('diffusion_pytorch_model', 'model')
        for name in (
            'safetensors.index.fp16.json',  # of diffusers, new and old, and of transformers
            'safetensors.fp16.index.json',
            'fp16.safetensors.index.json',
            'fp16.safetensors',
        )
    ),
    'adapter_model.safetensors',  # LoRA of peft
    'pytorch_lora_weights.safetensors',  # LoRA of diffusers
)


def file_sha256(file: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with check_location(file).open('rb') as opened:
        return hashlib.file_digest(opened, 'sha256').hexdigest()


def find_weights(folder: Path) -> Path | None:
    """Return the weight file of a model folder, or the index of its shards; None: neither."""
    return next((folder / name for name in WEIGHT_FILES if (folder / name).is_file()), None)


def has_weights(folder: Path) -> bool:
    """Return whether `find_weights` finds some."""
    return find_weights(folder) is not None


def weights_files(path: Path) -> list[Path]:
    """
    Return the weight files of a model: the file itself, the one in a folder, or all shards.

    :param path: safetensors file, or model folder.
    :raises FileNotFoundError: there is no weight file, or a shard is missing.
    :raises ValueError: the index of the shards is broken.
    """
    file = path if path.is_file() else find_weights(path)
    if file is not None:
        files = _shards(file) if file.suffix == '.json' else [file]
        return [check_location(one) for one in files]
    pickled = next((f.name for f in sorted(path.glob('*.bin'))), '') if path.is_dir() else ''
    hint = (
        f'; {pickled} is a pickle, which is never opened: save it again as safetensors'
        if pickled
        else ''
    )
    raise FileNotFoundError(
        f'expected a model folder with {WEIGHTS} or model.safetensors, found none at {path}{hint}'
    )


def _shards(index: Path) -> list[Path]:
    weight_map = read_json(index).get('weight_map')
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f'{index} is not an index of weight files (no weight_map); copy it again')
    names = sorted(set(map(str, weight_map.values())))
    files = [index.parent / Path(name).name for name in names]
    for name, file in zip(names, files, strict=True):
        if not file.is_file():
            raise FileNotFoundError(
                f'expected {name} beside {index}, which lists it; found none; copy it again'
            )
    return files
