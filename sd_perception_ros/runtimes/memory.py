"""Return memory to the system."""

from __future__ import annotations

import contextlib
import ctypes
import gc
from pathlib import Path

_MAPS = Path('/proc/self/maps')
_DONT_NEED = 4  # MADV_DONTNEED of Linux


def trim() -> None:
    """Return freed memory to the system, if the C library can (glibc)."""
    gc.collect()
    with contextlib.suppress(OSError, TypeError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def give_back(file: Path) -> None:
    """
    Release the pages of a file that this process has mapped for reading.

    They stay in the system's page cache while there is room. The next access maps them again, in
    0.1 ms per megabyte. Does nothing on systems other than Linux.
    """
    if not _MAPS.exists():
        return
    name = str(file.resolve())
    libc = ctypes.CDLL(None)
    for line in _MAPS.read_text().splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[5] == name:
            begin, end = (int(address, 16) for address in fields[0].split('-'))
            libc.madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), _DONT_NEED)
