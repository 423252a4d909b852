"""Paths as users write them."""

from __future__ import annotations

import os
from pathlib import Path


def expand_home(text: str) -> str:
    """
    Replace `~` and `~name` at the start of a path by the home folder.

    Shells leave `~` as it is in `--out=~/x`, in files, and in ROS parameters. The home of an
    unknown user stays as it is: such a folder may exist.
    """
    return os.path.expanduser(text)


def user_path(text: str | os.PathLike[str]) -> Path:
    """Return a path after `expand_home`; the type of each command line option that is a path."""
    return Path(expand_home(os.fspath(text)))


def printable(text: str | os.PathLike[str]) -> str:
    r"""Return a file name, or a text with one, as valid UTF-8: other bytes become \xNN."""
    name = os.fspath(text)
    try:
        return name.encode('utf-8', 'surrogateescape').decode('utf-8', 'backslashreplace')
    except UnicodeEncodeError:  # half a character, for example from JSON
        return name.encode('utf-8', 'backslashreplace').decode()
