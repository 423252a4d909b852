"""Environment variables for the transport of messages of several megabytes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
import shutil

# If one of these is set, the user has configured the transport.
TRANSPORT_VARIABLES = (
    'FASTDDS_BUILTIN_TRANSPORTS',
    'FASTDDS_DEFAULT_PROFILES_FILE',
    'FASTRTPS_DEFAULT_PROFILES_FILE',
    'RMW_FASTRTPS_USE_QOS_FROM_XML',
)
# Each process maps a segment of 64 MB, and is killed if /dev/shm is full. The default size of
# /dev/shm in containers is 64 MB.
_NEEDED_BYTES = 512 * 2**20
_SHARED_MEMORY = Path('/dev/shm')
_OLD_NAMES = ('humble', 'iron', 'jazzy')

# Idle OpenMP threads of torch sleep instead of spinning: the middleware needs the CPU, too.
# Large blocks of memory are reused instead of being mapped for each frame: 15 % less CPU time for
# a frame's messages.
_TUNING = {
    'OMP_WAIT_POLICY': 'PASSIVE',
    'MALLOC_MMAP_THRESHOLD_': str(32 * 2**20),
    'MALLOC_TRIM_THRESHOLD_': str(256 * 2**20),
}


def tuning_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return variables to add to the nodes' environment; those that are set stay as they are."""
    return {name: value for name, value in _TUNING.items() if name not in environ}


def transport_environment(
    environ: Mapping[str, str], profile: Path, shared_memory: Path = _SHARED_MEMORY
) -> dict[str, str]:
    """
    Return variables that select a transport for the nodes.

    :param environ: the user's environment.
    :param profile: config/fastdds.xml with a large shared-memory segment. With it, 40 of 40
        bursts of all outputs (13 MB) arrive on a busy machine. If it cannot be used, LARGE_DATA
        is the second best.
    :returns: empty if the user has configured a transport, or uses another middleware.
    """
    if any(environ.get(name) for name in TRANSPORT_VARIABLES):
        return {}
    if 'fastrtps' not in environ.get('RMW_IMPLEMENTATION', 'rmw_fastrtps_cpp'):
        return {}
    if not profile.is_file() or not _has_room(shared_memory):
        return {'FASTDDS_BUILTIN_TRANSPORTS': 'LARGE_DATA'}
    old = environ.get('ROS_DISTRO') in _OLD_NAMES
    prefix = 'FASTRTPS' if old else 'FASTDDS'
    return {f'{prefix}_DEFAULT_PROFILES_FILE': str(profile)}


def _has_room(folder: Path) -> bool:
    return folder.is_dir() and shutil.disk_usage(folder).free >= _NEEDED_BYTES
