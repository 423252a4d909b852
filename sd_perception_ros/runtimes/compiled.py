"""torch.compile for the encoder, denoisers and heads of a model."""

from __future__ import annotations

import shutil
from typing import Any

import torch
from torch.utils._triton import has_triton

from sd_perception_ros.model import Model


def compile_model(model: Model, device: torch.device) -> None:
    """
    Compile encoder, denoisers and heads, in place, at the first image of each size.

    Each is compiled separately, so that heads of unwanted tasks do not run.

    :raises ValueError: there is no compiler for the device.
    """
    if device.type == 'cpu' and not (shutil.which('g++') or shutil.which('clang++')):
        raise ValueError(
            'runtime torch-compile needs a C++ compiler, found neither g++ nor clang++; install '
            'one (apt install g++), or set runtime: torch'
        )
    if device.type == 'cuda' and not has_triton():
        raise ValueError(
            'runtime torch-compile needs Triton on CUDA; pip install triton, or set runtime: torch'
        )
    how: dict[str, Any] = {'dynamic': False, 'options': {'freezing': True}}
    for backbone in model.backbones.values():
        for part in ('encode', 'step'):
            setattr(backbone, part, torch.compile(getattr(backbone, part), **how))
    for head in model.heads.values():
        head.compile(**how)
