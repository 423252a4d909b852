"""Shared by the benchmarks: options, description of the machine and code, writing of results."""

from __future__ import annotations

import argparse
from collections.abc import Callable
import hashlib
import json
import os
from pathlib import Path
import platform
import sys
from typing import Any

from sd_perception_ros.__main__ import format_error
from sd_perception_ros.checkpoint import config_file
from sd_perception_ros.checkpoint.weight_files import file_sha256
from sd_perception_ros.cli.versions import commit, versions
from sd_perception_ros.config import EngineConfig
from sd_perception_ros.paths import user_path
from sd_perception_ros.ros.node.transport import tuning_environment


def parser(about: str | None) -> argparse.ArgumentParser:
    """
    Return a parser with the option of all benchmarks.

    :param about: description of the benchmark.
    """
    made = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument('--json', type=user_path, help='also write the result to this file')
    return made


def photograph_parser(about: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options of benchmarks on photographs: folders and checkpoint."""
    made = parser(about)
    made.add_argument('folders', nargs='*', type=user_path, help='folders of unpacked packages')
    made.add_argument('--checkpoint', default=EngineConfig.checkpoint, help='%(default)s')
    made.add_argument(
        '--long-side',
        type=int,
        default=EngineConfig.long_side_px,
        help='longer side of the network input; 0: value of the checkpoint',
    )
    return made


def run_command(main: Callable[[], int]) -> None:
    """Run a benchmark and end with its code; a mistake of the user is one line, as elsewhere."""
    try:
        code = main()
    except (OSError, ValueError, FloatingPointError) as error:
        print(f'error: {format_error(error)}', file=sys.stderr)
        code = 1
    sys.exit(code)


def restart_tuned() -> None:
    """Restart this command with the settings of the memory allocator that the node uses."""
    if tuning := tuning_environment(os.environ):  # read when a process starts
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | tuning)


def machine() -> str:
    """Name this machine."""
    return f'{platform.processor() or platform.machine()}, {os.cpu_count()} cores'


def about_run() -> dict[str, Any]:
    """Return the commit, versions and machine of a result."""
    return {
        'machine': machine(),
        'load_average': os.getloadavg()[0],
        'commit': commit(),
        'versions': versions(),
    }


def fingerprint(name: str) -> str:
    """Return a short hash of a checkpoint's weight files."""
    folder = config_file.resolve(name).parent
    hashes = [file_sha256(file) for file in sorted(folder.rglob('*.safetensors'))]
    return hashlib.sha256(''.join(hashes).encode()).hexdigest()[:16]


def status_mib(field: str) -> float:
    """
    Return a memory figure of this process in MiB (Linux).

    :param field: of /proc/self/status: `VmRSS` now, `VmHWM` at its peak. `ru_maxrss` of getrusage
        is no substitute for the peak: it survives fork and exec, so it starts at the parent's.
    """
    lines = Path('/proc/self/status').read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def write(result: dict[str, Any], file: Path | None) -> None:
    """Write a result, if a file is named."""
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(result, indent=2) + '\n')
