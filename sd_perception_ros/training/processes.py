"""The processes of a training (accelerate): index of this process, and its device."""

from __future__ import annotations

from datetime import timedelta
import os

from accelerate import PartialState
import torch

TIMEOUT = timedelta(hours=2)  # the main process checks every file while the others wait


_OTHER_PLUGINS = ('DEEPSPEED', 'MEGATRON_LM', 'PARALLELISM_CONFIG')


def check_environment() -> None:
    """
    Refuse plugins of accelerate that replace our optimizer, clipping or accumulation.

    :raises ValueError: a variable selects one.
    """
    for plugin in _OTHER_PLUGINS:
        name = f'ACCELERATE_USE_{plugin}'
        if (value := os.environ.get(name, 'false')).lower() == 'true':
            raise ValueError(
                f'expected processes of DDP or FSDP, got {name}={value}; unset it, or choose '
                'another configuration with accelerate config'
            )


def is_main() -> bool:
    """Return whether this is the main process, which prints and writes files."""
    return bool(_state().is_main_process)


def processes() -> int:
    """Return the number of processes."""
    return int(_state().num_processes)


def device() -> torch.device:
    """Return the device on which this process trains."""
    chosen: torch.device = _state().device
    return chosen


def _state() -> PartialState:
    check_environment()
    # Without a GPU, several processes connect only if accelerate is set to the CPU.
    return PartialState(cpu=not torch.cuda.is_available(), timeout=TIMEOUT)
