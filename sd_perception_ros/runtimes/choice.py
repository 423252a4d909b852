"""Which runtime serves a model here, and why."""

from __future__ import annotations

from typing import NamedTuple

import torch

from sd_perception_ros.config import EngineConfig
from sd_perception_ros.runtimes.sessions import missing_packages, SESSIONS


class Choice(NamedTuple):
    """
    The runtime of an engine.

    :ivar why: the reason, for the log.
    :ivar is_automatic: chosen by `auto`, so that torch may replace it.
    """

    runtime: str
    why: str
    is_automatic: bool = True


def choose(config: EngineConfig, device: torch.device) -> Choice:
    """
    Return the runtime of `config`, or for 'auto' the fastest one on this device.

    :raises ValueError: the runtime is not installed, or does not support device or precision.
    """
    name = config.runtime
    is_fp32 = config.precision in ('auto', 'fp32')
    if name in SESSIONS:
        if device.type != 'cpu' or not is_fp32:
            raise ValueError(
                f'runtime {name} runs on the CPU in fp32, got device {device} and precision '
                f'{config.precision}; set device: cpu and precision: fp32, or runtime: torch'
            )
        if missing := missing_packages(name):
            raise ValueError(
                f'runtime {name} is not installed: python -m pip install {" ".join(missing)} '
                '(requirements/runtimes.txt has the tested versions), or set runtime: torch'
            )
    if name != 'auto':
        return Choice(name, 'as asked', False)
    if device.type == 'cuda':
        return Choice('torch', 'auto: on CUDA it replays a frame as one CUDA graph')
    if not is_fp32:
        return Choice('torch', f'auto: the only one with {config.precision} on this device')
    for session in SESSIONS:
        if not missing_packages(session):
            return Choice(session, 'auto: on a CPU it is faster than torch')
    return Choice('torch', f'auto: none of {", ".join(SESSIONS)} is installed')
