"""The command `checkpoints`: list, fetch and check."""

from __future__ import annotations

from collections.abc import Sequence
import json
import time
from typing import Any

from sd_perception_ros.checkpoint import hub, lock
from sd_perception_ros.checkpoint.catalog import (
    hub_locations,
    known_checkpoints,
    KnownCheckpoint,
    record_hashes,
    verify_hashes,
)
from sd_perception_ros.checkpoint.config_file import open_checkpoint
from sd_perception_ros.checkpoint.licenses import is_restricted


def show(as_json: bool) -> int:
    """Print the known checkpoints."""
    rows = [_row(checkpoint) for checkpoint in known_checkpoints()]
    if as_json:
        print(json.dumps(rows, indent=2))
        return 0
    for row in rows:
        print(_block(row))
    print('checkpoints fetch NAME downloads a checkpoint, checkpoints check NAME tests it.')
    print(
        'Sizes are estimates from the numbers of parameters: downloads with 32 bits each, memory '
        'of the weights alone with 16 bits.'
    )
    return 0


def fetch(names: Sequence[str]) -> int:
    """Download checkpoints, compare their hashes with the hub's, and write the lock file."""
    from sd_perception_ros.checkpoint.checkpoint import find_files

    for name in names:
        file = open_checkpoint(name)
        if is_restricted(file.config.license):
            print(f'licence of {name}: {file.config.license} ({file.config.license_source})')
        if file.config.download_gb:
            print(f'{name}: about {file.config.download_gb:g} GB in all')
        files = find_files(file)
        if not hub_locations(file.config):
            print(f'{name}: all files are on this machine')
            continue
        weights = record_hashes(file.config)
        gigabytes = sum(weight.stat().st_size for weight in weights) / 1e9
        print(
            f'{name}: {len(weights)} weight files, {gigabytes:.2f} GB, SHA-256 as on the hub; '
            f'licence: {files.config.license}; commits are in {lock.lock_file()}'
        )
    return 0


def check(name: str, device: str, frame: bool) -> int:
    """Compare hashes, load on the meta device, and run one dry frame."""
    from sd_perception_ros.checkpoint import checkpoint
    from sd_perception_ros.engine import Engine

    file = open_checkpoint(name)
    model, config = checkpoint.load(file, device='meta')
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f'names and shapes fit: {", ".join(model.tasks)}, {parameters / 1e6:.1f} M parameters')
    if count := verify_hashes(config):
        print(f'SHA-256 of {count} weight files as in {lock.lock_file()}')
    print(f'licence: {config.license}')
    if not frame:
        return 0
    engine = Engine.load(name, device=device)
    start = time.monotonic()
    height, width = engine.dry_size  # as the node does at configure
    engine.warm_up(height, width)
    seconds = time.monotonic() - start
    print(f'dry frame: {width} x {height} pixels, {seconds:.2f} s; {engine.summary()}')
    return 0


def _row(checkpoint: KnownCheckpoint) -> dict[str, Any]:
    config = checkpoint.config
    return {
        'name': checkpoint.name,
        'tasks': list(config.tasks),
        'description': config.description,
        'locations': [_location(location) for location in hub_locations(config)],
        'download_gb': config.download_gb,
        'parameters_m': config.parameters_m,
        'license': config.license,
        'license_source': config.license_source,
        'restricted': is_restricted(config.license),
        'downloaded': not checkpoint.problem and _is_here(checkpoint.name),
        'problem': checkpoint.problem,
    }


def _location(location: hub.HubLocation) -> str:
    commit = lock.locked_commit(location.repo, location.revision)
    return str(location._replace(revision=commit) if commit else location)


def _is_here(name: str) -> bool:
    from sd_perception_ros.checkpoint.checkpoint import find_files

    try:
        find_files(name, offline=True)
    except FileNotFoundError:
        return False
    return True


def _block(row: dict[str, Any]) -> str:
    if row['problem']:
        return f'{row["name"]:28}not supported: {row["problem"]}\n'
    here = 'downloaded' if row['downloaded'] else 'not downloaded'
    lines = [f'{row["name"]:28}{", ".join(row["tasks"])} - {here}']
    lines += [f'    {row["description"]}'] if row['description'] else []
    sizes = [f'download about {row["download_gb"]:g} GB'] if row['download_gb'] else []
    sizes += (
        [f'weights in 16 bits about {row["parameters_m"] * 2 / 1e3:.1f} GB']
        if row['parameters_m']
        else []
    )
    warning = ' (no commercial use)' if row['restricted'] else ''
    lines.append('    ' + ', '.join([*sizes, f'licence: {row["license"]}{warning}']))
    lines += [f'    {location}' for location in row['locations']]
    return '\n'.join(lines) + '\n'
