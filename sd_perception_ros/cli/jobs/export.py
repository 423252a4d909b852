"""Write a checkpoint as ONNX files for ONNX Runtime, OpenVINO or TensorRT, checked with torch."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from sd_perception_ros.checkpoint import checkpoint
from sd_perception_ros.runtimes.exporting import export
from sd_perception_ros.runtimes.onnx_files import GRAPH
from sd_perception_ros.runtimes.sessions import missing_packages, SESSIONS


def run(arguments: argparse.Namespace) -> int:
    """Write the ONNX graphs and model.json, and print commands for TensorRT."""
    runtimes = arguments.runtime or [name for name in SESSIONS if not missing_packages(name)]
    for name in runtimes or SESSIONS:
        if missing := missing_packages(name):
            raise ValueError(
                f'{name}, which checks the ONNX graphs, is not installed: python -m pip '
                f'install {" ".join(missing)} (requirements/runtimes.txt)'
            )
    model, config = checkpoint.load(arguments.checkpoint, arguments.tasks)
    model.fold()
    parts = export(model, arguments.out, arguments.size, runtimes, torch.get_num_threads())
    _record(arguments, config.license, parts)
    for name, part in parts.items():
        worst = ', '.join(
            f'{runtime} {value:.0e}' for runtime, value in part['largest_difference'].items()
        )
        print(f'{name:20} differs from torch by {worst} of its largest value')
    print(
        f'\nwritten to {arguments.out}; weights licence: {config.license}\nTensorRT, on the GPU:\n'
    )
    for name, part in parts.items():
        print(tensorrt_command(arguments.out / name, part['shapes']))
    return 0


def tensorrt_command(folder: Path, shapes: dict[str, list[int]]) -> str:
    """Return the command that builds the TensorRT engine of a part, for one size in fp16."""
    sizes = ','.join(f'{name}:{"x".join(map(str, shape))}' for name, shape in shapes.items())
    return f'trtexec --onnx={folder / GRAPH} --saveEngine={folder}.engine --fp16 --shapes={sizes}'


def _record(arguments: argparse.Namespace, weights_license: str, parts: dict[str, Any]) -> None:
    values = {
        'checkpoint': arguments.checkpoint,
        'license': weights_license,
        'size': f'{arguments.size[1]}x{arguments.size[0]}',
        'versions': {'torch': torch.__version__},
        'parts': parts,
    }
    (arguments.out / 'model.json').write_text(json.dumps(values, indent=2) + '\n')
