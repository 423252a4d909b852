"""Which runtime serves a model here, and why."""

from __future__ import annotations

from typing import NamedTuple

import torch

from sd_perception_ros.config import EngineConfig
from sd_perception_ros.runtimes.sessions import missing_packages, SESSIONS


class Choice(NamedTuple):
    """
    A runtime.

    :ivar why: one clause for people.
    :ivar is_free: nobody asked for this one.
    """

    runtime: str
    why: str
    is_free: bool = True


def choose(config: EngineConfig, device: torch.device) -> Choice:
    """
    Return the runtime that `config` names, or the fastest one here if it is 'auto'.

    :raises ValueError: it is not installed, or does not fit the device or the precision.
    """
    name = config.runtime
    full = config.precision in ('auto', 'fp32')
    if name in SESSIONS:
        if device.type != 'cpu' or not full:
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
        return Choice('torch', 'auto: on CUDA it replays a frame as one graph')
    if not full:
        return Choice('torch', f'auto: it alone has {config.precision} here')
    for session in SESSIONS:
        if not missing_packages(session):
            return Choice(session, 'auto: on a CPU it is faster than torch')
    return Choice('torch', f'auto: none of {", ".join(SESSIONS)} is installed')
