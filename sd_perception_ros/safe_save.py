"""
Atomic writes: readers see the old file or the complete new one, never a part of it.

Files get the permissions of the umask (usually 644), so that a model trained by one user can be
served by another. safetensors and `tempfile` create files with 600.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import contextlib
import os
from pathlib import Path
import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # most callers need no torch
    from torch import Tensor


@contextlib.contextmanager
def atomic_write(file: Path) -> Iterator[Path]:
    """
    Give a temporary path beside `file`; it replaces `file` when the block ends without an error.

    :raises OSError: the folder cannot be created or written.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f'.{file.name}.{os.getpid()}.tmp')
    try:
        temporary.touch()
        permissions = temporary.stat().st_mode & 0o777
        yield temporary
        temporary.chmod(permissions)
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(file: Path, data: bytes) -> None:
    """Write a file atomically."""
    with atomic_write(file) as temporary:
        temporary.write_bytes(data)


def write_text(file: Path, text: str) -> None:
    """Write a file atomically, in UTF-8."""
    write_bytes(file, text.encode())


def save_safetensors(
    file: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """
    Write a safetensors file atomically.

    :param tensors: contiguous, on the CPU.
    :raises OSError: the disk is full, or the folder cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with atomic_write(file) as temporary:
        try:
            save_file(dict(tensors), temporary, metadata=metadata)
        except SafetensorError as error:  # raised for every I/O error
            raise OSError(
                f'cannot write {file} ({error}); free disk space or make the folder writable, '
                'then run the same command again'
            ) from error


def replace_folder(new: Path, folder: Path) -> None:
    """
    Replace a folder by a complete new one beside it.

    A folder cannot be replaced in one step: see `complete_folder` for the time in between.
    """
    old = _old(folder)
    if folder.is_dir():
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def complete_folder(folder: Path) -> Path:
    """Return the folder, or the old one where `replace_folder` was interrupted."""
    old = _old(folder)
    return old if old.is_dir() and not folder.is_dir() else folder


def remove_folder(folder: Path) -> None:
    """Delete a folder, and the old one where `replace_folder` was interrupted."""
    for path in (folder, _old(folder)):
        shutil.rmtree(path, ignore_errors=True)


def _old(folder: Path) -> Path:
    return folder.with_name(f'{folder.name}.old')
