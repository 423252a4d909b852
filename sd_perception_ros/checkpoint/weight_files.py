"""Find weight files: safetensors, one file or several shards; never a pickle. No torch."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

# In order of preference; fp16 variants serve where the full file is missing.
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


def file_sha256(file: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with file.open('rb') as opened:
        return hashlib.file_digest(opened, 'sha256').hexdigest()


def has_weights(path: Path) -> bool:
    """Return whether `weights_files` finds some in a model folder."""
    return path.is_dir() and any((path / name).is_file() for name in (*WEIGHT_FILES, *INDEXES))


def weights_files(path: Path) -> list[Path]:
    """
    Return the weight files of a model: the file itself, the one in a folder, or all shards.

    :param path: safetensors file, or model folder.
    :raises FileNotFoundError: there is no weight file, or a shard is missing.
    :raises ValueError: the index of the shards is broken.
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
        f'; {pickled} is a pickle, which is never opened: save it again as safetensors'
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
        raise ValueError(f'{index} is not an index of weight files ({error})') from None
    files = [index.parent / Path(name).name for name in names]
    for name, file in zip(names, files, strict=True):
        if not file.is_file():
            raise FileNotFoundError(
                f'expected {name} beside {index}, which lists it; found none; copy it again'
            )
    return files
