"""Environment variables with which messages of several megabytes arrive, and soon."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
import shutil

# Whoever sets one of these has chosen a transport.
CHOSEN_BY = (
    'FASTDDS_BUILTIN_TRANSPORTS',
    'FASTDDS_DEFAULT_PROFILES_FILE',
    'FASTRTPS_DEFAULT_PROFILES_FILE',
    'RMW_FASTRTPS_USE_QOS_FROM_XML',
)
# Every process maps a segment of 64 MB; touching one that does not fit kills the process, and
# containers have 64 MB in all unless told otherwise.
_NEEDED_BYTES = 512 * 2**20
_SHARED_MEMORY = Path('/dev/shm')
_OLD_NAMES = ('humble', 'iron', 'jazzy')

# Idle torch threads sleep instead of spinning: the middleware needs the processor too. And blocks
# of megabytes stay with the process from frame to frame, instead of being mapped and cleared
# anew: 15 % less processor time for a frame's messages.
_TUNING = {
    'OMP_WAIT_POLICY': 'PASSIVE',
    'MALLOC_MMAP_THRESHOLD_': str(32 * 2**20),
    'MALLOC_TRIM_THRESHOLD_': str(256 * 2**20),
}


def tuning_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Choose what to add to the environment of the nodes, where the user has not chosen."""
    return {name: value for name, value in _TUNING.items() if name not in environ}


def transport_environment(
    environ: Mapping[str, str], profile: Path, shared_memory: Path = _SHARED_MEMORY
) -> dict[str, str]:
    """
    Choose what to add to the environment of the nodes.

    :param environ: the user's environment; a transport chosen there is left alone.
    :param profile: config/fastdds.xml with its large shared-memory segment. With it, 40 of 40
        bursts of all outputs (13 MB) arrive on a busy machine; where it cannot be used,
        LARGE_DATA is the next best.
    :returns: variables to set; empty where the user has chosen, or uses another middleware.
    """
    if any(environ.get(name) for name in CHOSEN_BY):
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
