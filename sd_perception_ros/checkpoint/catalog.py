"""The checkpoints with a known name, and their files on this machine."""

from __future__ import annotations

from collections.abc import Iterator
import hashlib
from pathlib import Path
from typing import NamedTuple

from sd_perception_ros.checkpoint import hub, lock
from sd_perception_ros.checkpoint.config_file import (
    CheckpointConfig,
    FILE,
    open_checkpoint,
    SHIPPED,
    UNSUPPORTED,
)

_CHUNK_BYTES = 1 << 20


class KnownCheckpoint(NamedTuple):
    """
    A checkpoint with a name.

    :ivar problem: why it is not supported; empty if it is supported.
    """

    name: str
    config: CheckpointConfig
    problem: str = ''


def known_checkpoints() -> Iterator[KnownCheckpoint]:
    """Yield the known checkpoints by name, the supported ones first."""
    for file in sorted(SHIPPED.glob(f'*/{FILE}')):
        yield KnownCheckpoint(file.parent.name, open_checkpoint(file.parent.name).config)
    for name, problem in UNSUPPORTED.items():
        yield KnownCheckpoint(name, CheckpointConfig(), problem)


def hub_locations(config: CheckpointConfig) -> list[hub.HubLocation]:
    """List the different locations on the hub that a checkpoint names."""
    entries = config.tasks.values()
    names = [config.base, config.vae, config.tiny_encoder, config.tiny_decoder, config.prompt]
    names += [name for entry in entries for name in (entry.unet, entry.head_weights)]
    return [hub.parse(name) for name in dict.fromkeys(names) if hub.is_on_hub(name)]


def record_hashes(config: CheckpointConfig) -> list[Path]:
    """
    Write the SHA-256 of the downloaded weight files of a checkpoint to the lock file.

    :returns: the weight files.
    :raises ValueError: a file differs from the one on the hub: the download is damaged.
    """
    files = []
    for location in hub_locations(config):
        at_commit = location._replace(revision=hub.commit_of(location))
        expected = {path: sha for path, _, sha in hub.remote_files(at_commit) if sha}
        hashes = {}
        for path, file in _weights(at_commit):
            hashes[path] = sha256_of(file)
            if expected.get(path, hashes[path]) != hashes[path]:
                raise ValueError(
                    f'{file} has SHA-256 {hashes[path]}, the hub states {expected[path]}; remove '
                    'the file and download again'
                )
            files.append(file)
        lock.record(location.repo, location.revision, at_commit.revision, hashes)
    return files


def verify_hashes(config: CheckpointConfig) -> int:
    """
    Compare the weight files of a checkpoint with the lock file, and return their number.

    :raises ValueError: a file differs.
    """
    count = 0
    for location in hub_locations(config):
        at_commit = location._replace(revision=hub.commit_of(location))
        expected = lock.locked_hashes(at_commit.revision)
        for path, file in _weights(at_commit):
            if path in expected:
                count += 1
                actual = sha256_of(file)
                if actual != expected[path]:
                    raise ValueError(
                        f'{file} has SHA-256 {actual}, {lock.lock_file()} has {expected[path]}; '
                        'remove the file and run checkpoints fetch again'
                    )
    return count


def sha256_of(file: Path) -> str:
    """Return the SHA-256 of a file."""
    digest = hashlib.sha256()
    with file.open('rb') as opened:
        while chunk := opened.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _weights(location: hub.HubLocation) -> Iterator[tuple[str, Path]]:
    """Yield path in the repository and local path of the weight files in the cache."""
    root = hub.snapshot_folder(location)
    if root is None:
        return
    for file in sorted(root.rglob('*.safetensors')):
        path = file.relative_to(root).as_posix()
        if path.startswith(location.path):
            yield path, file
