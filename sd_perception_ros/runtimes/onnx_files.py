"""Folders of ONNX graphs and their cache: written atomically, with SHA-256 in a JSON file."""

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

from sd_perception_ros.paths import user_path
from sd_perception_ros.safe_save import write_text

GRAPH, RECORD = 'graph.onnx', 'graph.json'
KEPT_DAYS = 30  # ONNX graphs of a large model take gigabytes, and each version writes new ones


def cache_folder() -> Path:
    """Return the cache of ONNX graphs: below XDG_CACHE_HOME, or ~/.cache."""
    home = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
    return user_path(home) / 'sd_perception_ros' / 'graphs'


@contextlib.contextmanager
def write_folder(folder: Path, digest: str, record: Mapping[str, Any]) -> Iterator[Path]:
    """
    Yield a temporary folder for files; after the `with` block, without error, move it to `folder`.

    :param digest: hash of the sources of the files.
    :param record: additional entries of graph.json.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f'.{folder.name}-', dir=folder.parent))
    try:
        yield work
        sums = {file.name: _sha256(file) for file in sorted(work.iterdir())}
        write_json(work / RECORD, {'digest': digest, 'sha256': sums, **record})
        work.chmod(0o755)
        publish(work, folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def is_intact(folder: Path, digest: str) -> bool:
    """Return whether a folder was written for this digest and its files are unchanged."""
    try:
        record = json.loads((folder / RECORD).read_text())
        sums = record['sha256'].items()
        return record['digest'] == digest and all(_sha256(folder / n) == s for n, s in sums)
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return False


def publish(work: Path, folder: Path) -> None:
    """Move a finished folder to its place, unless another process has put the same one there."""
    digest = json.loads((work / RECORD).read_text())['digest']
    if folder.exists() and not is_intact(folder, digest):
        shutil.rmtree(folder)
    try:
        work.rename(folder)
    except OSError:
        if not is_intact(folder, digest):
            raise
        shutil.rmtree(work)


def delete_unused(used: Collection[Path]) -> None:
    """
    Mark folders of the cache as used now, and delete those not used for `KEPT_DAYS`.

    Temporary folders of processes that were killed are deleted, too. A process that has a deleted
    file open can go on reading it. A cache without write permission stays as it is.
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
    """Write a JSON file, atomically."""
    write_text(file, json.dumps(values, indent=2) + '\n')


def _sha256(file: Path) -> str:
    with file.open('rb') as stream:
        return hashlib.file_digest(stream, 'sha256').hexdigest()
