"""What ran: the commit of this code, and the versions of what it stands on."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
import platform
import subprocess

import cv2

PACKAGES = (
    'torch',
    'diffusers',
    'numpy',
    'scipy',
    'pysodmetrics',
    'pycocotools',
    'onnx',
    'onnxruntime',
    'openvino',
)


def commit() -> str:
    """Return the commit of this code, '-dirty' where it was changed; empty without git."""
    command = ['git', 'describe', '--always', '--dirty', '--abbrev=12']
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False
        )
    except OSError:
        return ''
    return done.stdout.strip()


def versions() -> dict[str, str]:
    """Return versions by name; packages that are not here are left out."""
    found = {'python': platform.python_version(), 'opencv': cv2.__version__}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
