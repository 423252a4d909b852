"""Files of weights: safetensors, whole or in shards, and their hashes; never a pickle."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
import contextlib
import hashlib
import json
from pathlib import Path

from safetensors import safe_open, SafetensorError
from safetensors.torch import load_file
import torch
from torch import Tensor

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


class Reader:
    """
    Read weight files, check their hashes, and remember them.

    :param sha256: what a file must hash to, by the end of its path, such as
        `unet/diffusion_pytorch_model.safetensors`.
    :param device: 'cpu', or 'meta' for shapes without numbers.
    :param hashes: of files that need not be hashed again; None: of none, and with shapes alone
        no file is hashed at all.
    :ivar hashes: SHA-256 of each file read, by path.
    """

    def __init__(
        self,
        sha256: Mapping[str, str] | None = None,
        device: str = 'cpu',
        hashes: Mapping[str, str] | None = None,
    ) -> None:
        self.sha256 = dict(sha256 or {})
        self.device = device
        self.hashes = dict(hashes or {})
        self.verifies = device != 'meta' or hashes is not None
        self._noted: set[str] = set()

    @contextlib.contextmanager
    def noting(self) -> Iterator[set[str]]:
        """Give a set that the paths of all files read from here on are added to."""
        before, self._noted = self._noted, set()
        try:
            yield self._noted
        finally:
            self._noted = before | self._noted

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

    def origin(self, files: Collection[str], tensors: Mapping[str, Tensor]) -> str:
        """
        Name the numbers of a module that was read as shapes alone; '' for any other.

        :param files: what `noting` gave while it was read.
        :param tensors: the module's; those that have numbers did not come from these files.
        """
        if self.device != 'meta' or not self.verifies:
            return ''
        digest = hashlib.sha256(' '.join(sorted(self.hashes[file] for file in files)).encode())
        for name, tensor in tensors.items():
            if not tensor.is_meta:
                digest.update(name.encode())
                digest.update(tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()

    def check(self, file: Path) -> None:
        """Hash a file and compare it with what was expected, if anything was."""
        self._noted.add(str(file))
        if not self.verifies or str(file) in self.hashes:
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
