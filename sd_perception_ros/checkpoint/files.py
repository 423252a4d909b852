"""Read the small files of a checkpoint; an error names the file. Imports no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sd_perception_ros.git_lfs import refuse_lfs_pointer


def read_json(file: Path) -> dict[str, Any]:
    """
    Read a JSON object.

    :raises FileNotFoundError: there is no such file.
    :raises ValueError: it is empty, damaged, no object, or a git-lfs pointer.
    """
    refuse_lfs_pointer(file)
    try:
        values = json.loads(file.read_text())
    except (ValueError, RecursionError) as error:
        raise ValueError(f'{file} is not JSON ({error}); copy it again') from None
    if not isinstance(values, dict):
        raise ValueError(f'{file}: expected a mapping of options, got {type(values).__name__}')
    return values
