"""
The lock file: the commit of each branch of a hub repository at its first use.

A branch such as `main` may move. The commit of its first use is stored, with the
SHA-256 of the downloaded files, so that a robot runs the same weights after every start.
"""

from __future__ import annotations

from collections.abc import Mapping
import datetime
import os
from pathlib import Path
from typing import Any

import yaml

from sd_perception_ros.paths import user_path
from sd_perception_ros.safe_save import write_text

NAME = 'checkpoints.lock.yaml'


def lock_file() -> Path:
    """Return the path of the lock file, in the user's configuration folder (XDG)."""
    config = os.environ.get('XDG_CONFIG_HOME') or Path.home() / '.config'
    return user_path(config) / 'sd_perception_ros' / NAME


def locked_commit(repo: str, revision: str) -> str:
    """
    Return the commit that a branch or tag of a repository was resolved to; '' if it is not known.

    :raises ValueError: the lock file is damaged.
    """
    return str(_read().get(f'{repo}@{revision}', {}).get('commit', ''))


def locked_hashes(commit: str) -> dict[str, str]:
    """Return the SHA-256 of the files of a commit that were downloaded, by path."""
    for entry in _read().values():
        if entry['commit'] == commit:
            return dict(entry.get('sha256', {}))
    return {}


def record(repo: str, revision: str, commit: str, sha256: Mapping[str, str] | None = None) -> None:
    """Store the commit of a revision, and the SHA-256 of its downloaded files by path."""
    entries = _read()
    key = f'{repo}@{revision}'
    before = entries.get(key, {})
    hashes = {**(before.get('sha256', {}) if before.get('commit') == commit else {})}
    hashes |= sha256 or {}
    today = datetime.datetime.now(tz=datetime.timezone.utc).date().isoformat()
    entries[key] = {'commit': commit, 'resolved': before.get('resolved', today), 'sha256': hashes}
    file = lock_file()
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, yaml.safe_dump(entries, sort_keys=True, width=120))


def _read() -> dict[str, dict[str, Any]]:
    file = lock_file()
    if not file.is_file():
        return {}
    try:
        entries = yaml.safe_load(file.read_text(encoding='utf-8')) or {}
    except (yaml.YAMLError, UnicodeDecodeError):
        entries = None
    if not isinstance(entries, dict) or not all(
        isinstance(entry, dict) and 'commit' in entry for entry in entries.values()
    ):
        raise ValueError(
            f"{file} is damaged: expected entries such as 'owner/name@main: {{commit: ...}}'; "
            'remove it, and run checkpoints fetch again'
        )
    return entries
