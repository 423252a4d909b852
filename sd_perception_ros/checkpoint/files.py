"""Read the small files of a checkpoint; an error names the file. Imports no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

LFS_POINTER = b'version https://git-lfs.github.com/spec/'


def read_json(file: Path) -> dict[str, Any]:
    """
    Read a JSON object.

    :raises FileNotFoundError: there is no such file.
    :raises ValueError: it is empty, damaged, no object, or a git-lfs pointer.
    """
    refuse_lfs_pointer(file)
    try:
        values = json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f'{file} is not JSON ({error}); copy it again') from None
    if not isinstance(values, dict):
        raise ValueError(f'{file}: expected a mapping of options, got {type(values).__name__}')
    return values


def refuse_lfs_pointer(file: Path) -> None:
    """
    Refuse a file that git left in place of a large one.

    :raises ValueError: it is such a pointer.
    """
    with file.open('rb') as opened:
        if opened.read(len(LFS_POINTER)) == LFS_POINTER:
            raise ValueError(
                f'{file} is a git-lfs pointer, not the file itself; run in its folder: '
                'git lfs pull'
            )
