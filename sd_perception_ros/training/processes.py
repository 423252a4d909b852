"""The processes of a training (accelerate): which one this is, and its device."""

from __future__ import annotations

from datetime import timedelta

from accelerate import PartialState
import torch

TIMEOUT = timedelta(hours=2)  # the main process checks every file while the others wait


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
    # Without a GPU, several processes connect only if accelerate is told to use the CPU.
    return PartialState(cpu=not torch.cuda.is_available(), timeout=TIMEOUT)
