"""Folders of files that are written once, whole or not at all, and vouched for by a JSON file."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
import contextlib
import hashlib
import json
import os
from pathlib import Path
import shutil
import tempfile
import time
from typing import Any

from sd_perception_ros.safe_save import write_text

GRAPH, ABOUT = 'graph.onnx', 'graph.json'
KEPT_DAYS = 30  # a graph of a large model has gigabytes, and each new version makes new ones


def cache_folder() -> Path:
    """Return where graphs are kept: below XDG_CACHE_HOME, or ~/.cache."""
    home = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
    return Path(home) / 'sd_perception_ros' / 'graphs'


@contextlib.contextmanager
def writing(folder: Path, digest: str, about: Mapping[str, Any]) -> Iterator[Path]:
    """
    Give a folder to write files to, and put it in its place when all went well.

    :param digest: names what the files are made of.
    :param about: what else to say of them.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f'.{folder.name}-', dir=folder.parent))
    try:
        yield work
        sums = {file.name: _sha256(file) for file in sorted(work.iterdir())}
        write_json(work / ABOUT, {'digest': digest, 'sha256': sums, **about})
        work.chmod(0o755)
        publish(work, folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def is_intact(folder: Path, digest: str) -> bool:
    """Return whether a folder holds all that was written for this digest."""
    try:
        about = json.loads((folder / ABOUT).read_text())
        sums = about['sha256'].items()
        return about['digest'] == digest and all(_sha256(folder / n) == s for n, s in sums)
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return False


def publish(work: Path, folder: Path) -> None:
    """Move a whole folder to its place, unless another process has put the same one there."""
    digest = json.loads((work / ABOUT).read_text())['digest']
    if folder.exists() and not is_intact(folder, digest):
        shutil.rmtree(folder)
    try:
        work.rename(folder)
    except OSError:
        if not is_intact(folder, digest):
            raise
        shutil.rmtree(work)


def forget_unused(used: Collection[Path]) -> None:
    """
    Note which folders of the cache are in use, and delete those that nobody used for long.

    Among them what a process left that was killed while it wrote. Whoever has a file open that is
    deleted keeps it. A cache that cannot be written stays as it is.
    """
    now = time.time()
    for folder in used:
        with contextlib.suppress(OSError):
            os.utime(folder, (now, now))
    with contextlib.suppress(OSError):
        for folder in cache_folder().iterdir():
            if folder.stat().st_mtime < now - KEPT_DAYS * 24 * 3600:
                shutil.rmtree(folder, ignore_errors=True)


def write_json(file: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON file, all or nothing."""
    write_text(file, json.dumps(values, indent=2) + '\n')


def _sha256(file: Path) -> str:
    with file.open('rb') as stream:
        return hashlib.file_digest(stream, 'sha256').hexdigest()
