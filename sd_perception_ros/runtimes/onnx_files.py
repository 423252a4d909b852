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
DIFFERENCES = 'largest_difference'  # in graph.json: {runtime: difference from torch}
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


def read_record(folder: Path, digest: str) -> dict[str, Any] | None:
    """
    Return the entries of a folder's graph.json.

    :returns: None if the file is missing, damaged, has other types, or is of another digest.
    """
    try:
        record = json.loads((folder / RECORD).read_text())
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or record.get('digest') != digest:
        return None
    return record if isinstance(record.get('sha256'), dict) else None


def are_differences(entry: Any) -> bool:
    """Return whether an entry of graph.json is {runtime: difference from torch}."""
    return isinstance(entry, dict) and all(type(value) is float for value in entry.values())


def is_intact(folder: Path, digest: str, needed: str = '') -> bool:
    """
    Return whether a folder was written for this digest and its files are unchanged.

    :param needed: name of a file that must be among them.
    """
    record = read_record(folder, digest)
    if record is None or (needed and needed not in record['sha256']):
        return False
    try:
        return all(_sha256(folder / name) == sha256 for name, sha256 in record['sha256'].items())
    except OSError:
        return False


def publish(work: Path, folder: Path) -> None:
    """Move a finished folder to its place, unless another process has put the same one there."""
    record = json.loads((work / RECORD).read_text())
    if not _has_same_files(folder, record):
        if folder.is_dir():
            shutil.rmtree(folder)
        else:
            folder.unlink(missing_ok=True)
    try:
        work.rename(folder)
    except OSError:
        if not _has_same_files(folder, record):
            raise
        shutil.rmtree(work)


def _has_same_files(folder: Path, record: Mapping[str, Any]) -> bool:
    """Return whether a folder is intact, with the files and the entries of another graph.json."""
    other = read_record(folder, record['digest'])
    if other is None or not is_intact(folder, record['digest']):
        return False
    # The difference of each runtime is added later.
    changing = {'sha256', DIFFERENCES}
    return (
        set(other['sha256']) == set(record['sha256'])
        and are_differences(other.get(DIFFERENCES, {}))
        and {key: value for key, value in other.items() if key not in changing}
        == {key: value for key, value in record.items() if key not in changing}
    )


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
