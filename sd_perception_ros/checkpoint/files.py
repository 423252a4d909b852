"""Read the files of a checkpoint; an error names the file. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import contextlib
import contextvars
import json
from pathlib import Path
import stat
from typing import Any

from sd_perception_ros.git_lfs import refuse_lfs_pointer
from sd_perception_ros.paths import user_path

ASSETS = Path(__file__).parents[1] / 'assets'
_MAX_TEXT_BYTES = 64 * 2**20  # of a JSON or YAML file; the largest known tokenizer has 17 MB
# Folders that files may be opened in; empty: any folder.
_FOLDERS: contextvars.ContextVar[list[Path]] = contextvars.ContextVar('folders')


@contextlib.contextmanager
def only_below(folders: Sequence[str]) -> Iterator[None]:
    """
    Refuse files outside some folders in the `with` block, in this thread.

    The checkpoints of this package, and what was downloaded from a `hub:` location, can always be
    opened.

    :param folders: allowed folders; empty: any folder.
    """
    allowed = [user_path(folder).resolve() for folder in folders if folder]
    token = _FOLDERS.set([*allowed, ASSETS.resolve()] if allowed else [])
    try:
        yield
    finally:
        _FOLDERS.reset(token)


def allow_folder(folder: Path) -> None:
    """Allow a folder, too, until the end of the block of `only_below`."""
    folders = _FOLDERS.get([])
    if folders:
        folders.append(folder.resolve())


def check_location(path: Path) -> Path:
    """
    Refuse what is neither a folder nor a regular file, or lies outside the allowed folders.

    :returns: the path; it need not exist.
    :raises ValueError: it is a pipe, a device or a socket, a loop of links, or not allowed.
    """
    try:
        real, mode = path.resolve(), path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        real, mode = path.resolve(), stat.S_IFDIR
    except (OSError, RuntimeError) as error:  # a loop of links
        raise ValueError(f'{path} cannot be opened ({error}); name another file') from None
    folders = _FOLDERS.get([])
    if folders and not any(real.is_relative_to(folder) for folder in folders):
        raise ValueError(
            f'{path} is not below checkpoint_folders ({", ".join(map(str, folders))}); copy it '
            'there'
        )
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise ValueError(f'{path} is a pipe, a device or a socket; name a regular file')
    return path


def read_text(file: Path, errors: str = 'strict') -> str:
    """
    Read a text file.

    :raises FileNotFoundError: there is no such file.
    :raises ValueError: as of `check_location`, or too large for a text file.
    """
    check_location(file)
    if (size := file.stat().st_size) > _MAX_TEXT_BYTES:
        raise ValueError(
            f'{file} has {size / 1e6:.0f} MB, expected a text file of at most '
            f'{_MAX_TEXT_BYTES / 1e6:.0f} MB; name another file'
        )
    return file.read_text(errors=errors)


def read_json(file: Path) -> dict[str, Any]:
    """
    Read a JSON object.

    :raises FileNotFoundError: there is no such file.
    :raises ValueError: it is empty, damaged, no object, or a git-lfs pointer.
    """
    refuse_lfs_pointer(check_location(file))
    try:
        values = json.loads(read_text(file))
    except (ValueError, RecursionError) as error:
        raise ValueError(f'{file} is not JSON ({error}); copy it again') from None
    if not isinstance(values, dict):
        raise ValueError(f'{file}: expected a mapping of options, got {type(values).__name__}')
    return values
