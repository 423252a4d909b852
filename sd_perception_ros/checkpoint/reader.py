"""Read weight files, check their SHA-256, and record the files."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
import contextlib
import hashlib
from pathlib import Path

from safetensors import safe_open, SafetensorError
from safetensors.torch import load_file
import torch
from torch import Tensor

from sd_perception_ros.checkpoint.weight_files import file_sha256, weights_files
from sd_perception_ros.git_lfs import refuse_lfs_pointer


class Reader:
    """
    Reads weight files, checks their hashes, and records them.

    :param sha256: expected hash of a file by the end of its path, such as
        `unet/diffusion_pytorch_model.safetensors`.
    :param device: 'cpu', or 'meta' to read shapes without values.
    :param hashes: known hashes by path: these files are not hashed again. None: no known hashes,
        and on 'meta' no file is hashed at all.
    :ivar hashes: SHA-256 of each file read, by path.
    :ivar verifies: whether files are hashed.
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
        self._recorded: set[str] = set()

    @contextlib.contextmanager
    def record_files(self) -> Iterator[set[str]]:
        """Yield a set; the paths of all files read inside the `with` block are added to it."""
        before, self._recorded = self._recorded, set()
        try:
            yield self._recorded
        finally:
            self._recorded = before | self._recorded

    def read(self, path: Path) -> dict[str, Tensor]:
        """
        Read a safetensors file, or the ones in a model folder.

        :returns: tensors by name, as stored; on the meta device float32 shapes.
        :raises FileNotFoundError: there is no weight file.
        :raises ValueError: a file is damaged, or its hash is not the expected one.
        """
        tensors: dict[str, Tensor] = {}
        for file in weights_files(path):
            self.check(file)
            try:
                tensors |= _shapes(file) if self.device == 'meta' else load_file(file)
            except SafetensorError as error:
                raise _not_intact(file, error) from None
        names = dict(zip(tensors, _without_wrappers(tensors), strict=True))
        return {names[name]: tensor for name, tensor in tensors.items()}

    def weights_digest(self, files: Collection[str], tensors: Mapping[str, Tensor]) -> str:
        """
        Return a hash that identifies the weights of a module on the meta device; '' elsewhere.

        :param files: paths from `record_files` while the module was read.
        :param tensors: tensors of the module; those with values are hashed themselves.
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
        """
        Record a file; hash it, and compare with the expected hash if there is one.

        :raises ValueError: the hash differs.
        """
        refuse_lfs_pointer(file)
        self._recorded.add(str(file))
        if not self.verifies or str(file) in self.hashes:
            return
        sha256 = self.hashes[str(file)] = file_sha256(file)
        expected = self._expected(file)
        if expected and sha256 != expected.lower():
            raise ValueError(
                f'{file}: expected SHA-256 {expected}, got {sha256}; it is another file or was '
                'damaged: get it again, or correct sha256 in checkpoint.yaml'
            )

    def check_all_met(self) -> None:
        """
        Check that the files of all expected hashes were read.

        :raises ValueError: one was not read.
        """
        paths = [_parts(file) for file in self.hashes]
        for name in self.sha256:
            if not any(parts[-len(_parts(name)) :] == _parts(name) for parts in paths):
                raise ValueError(
                    f"sha256 names '{name}', but no file with that end was read; those read are "
                    f'{", ".join(self.hashes) or "none"}'
                )

    def _expected(self, file: Path) -> str:
        for name, expected in self.sha256.items():
            if _parts(str(file))[-len(_parts(name)) :] == _parts(name):
                return expected
        return ''


def _without_wrappers(names: Collection[str]) -> list[str]:
    """Remove the prefixes that torch.compile and data parallel modules add to names."""
    plain = [name.replace('_orig_mod.', '') for name in names]
    while plain and all(name.startswith('module.') for name in plain):
        plain = [name.removeprefix('module.') for name in plain]
    return plain


def _parts(path: str) -> tuple[str, ...]:
    return Path(path).parts


def _not_intact(file: Path, error: Exception) -> ValueError:
    return ValueError(f'{file} is not an intact safetensors file ({error}); copy it again')


def _shapes(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a file on the meta device."""
    with safe_open(file, 'pt') as opened:
        return {
            name: torch.empty(opened.get_slice(name).get_shape(), device='meta')
            for name in opened.keys()  # noqa: SIM118
        }


def tensor_names(path: Path) -> set[str]:
    """Return the names of all tensors in a safetensors file or model folder, from the headers."""
    names: set[str] = set()
    for file in weights_files(path):
        refuse_lfs_pointer(file)
        try:
            with safe_open(file, 'pt') as opened:
                names |= set(opened.keys())
        except SafetensorError as error:
            raise _not_intact(file, error) from None
    return set(_without_wrappers(names))


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata in the headers of a safetensors file or model folder."""
    metadata: dict[str, str] = {}
    for file in weights_files(path):
        with safe_open(file, 'pt') as opened:
            metadata |= opened.metadata() or {}
    return metadata
