"""The choice of a runtime, and its reason."""

from __future__ import annotations

from typing import NamedTuple

import torch

from sd_perception_ros.config import EngineConfig, GPU_RUNTIMES
from sd_perception_ros.runtimes.onnxruntime_gpu import gpu_provider
from sd_perception_ros.runtimes.sessions import missing_packages, SESSIONS
from sd_perception_ros.runtimes.tensorrt_session import check_tensorrt


class Choice(NamedTuple):
    """
    The runtime of an engine.

    :ivar why: the reason, for the log.
    :ivar is_automatic: chosen by `auto`; if it fails, torch replaces it.
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
    if name in GPU_RUNTIMES and device.type == 'cuda':
        _check_gpu_runtime(name, config.precision)
    elif name == 'tensorrt':
        raise ValueError(
            f'runtime tensorrt runs on CUDA, got device {device}; set device: cuda:0, or runtime: '
            'auto'
        )
    elif name in SESSIONS:
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


def serves_without_torch(choice: Choice, device: torch.device) -> bool:
    """Return whether torch's weights are needed only to write ONNX graphs."""
    return choice.runtime in SESSIONS and device.type == 'cpu'


def _check_gpu_runtime(name: str, precision: str) -> None:
    if precision == 'bf16':
        raise ValueError(
            f'runtime {name} runs in fp16 or fp32 on CUDA, got precision bf16; set precision: '
            'fp16, or runtime: torch'
        )
    if missing := [each for each in missing_packages(name) if each == 'onnx']:
        raise ValueError(
            f'runtime {name} needs {missing[0]}, which writes the graphs: python -m pip install '
            f'{missing[0]} (requirements/runtimes.txt), or set runtime: torch'
        )
    if name == 'tensorrt':
        check_tensorrt()
    else:
        gpu_provider()
