"""Write tensors to a safetensors file, all or nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor


def save_whole(
    file: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """
    Write under another name, then rename: readers never see half of it.

    :param tensors: contiguous, on the CPU.
    :raises OSError: there is no room, or no right to write.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix('.part')
    try:
        save_file(dict(tensors), part, metadata=metadata)
    except SafetensorError as error:  # of every fault of the disk
        raise OSError(
            f'{file} could not be written ({error}); make room, or the folder writable, and run '
            'the same command again'
        ) from error
    part.replace(file)
