"""Commit of this code, and versions of the packages that it uses."""

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


def commit(folder: Path = Path(__file__).parent) -> str:
    """
    Return the commit of this code, '-dirty' if it was changed; empty without git.

    Changed results of benchmarks are ignored: a series of benchmarks writes several.

    :param folder: any folder of the checkout.
    """
    name = _git(folder, 'describe', '--always', '--abbrev=12')
    code = (':/', ':(top,exclude)benchmark/results')
    changed = _git(folder, 'status', '--porcelain', '--untracked-files=no', '--', *code)
    return f'{name}-dirty' if name and changed else name


def _git(folder: Path, *arguments: str) -> str:
    command = ['git', *arguments]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except OSError:
        return ''
    return done.stdout.strip()


def versions() -> dict[str, str]:
    """Return versions by name; packages that are not installed are left out."""
    found = {'python': platform.python_version(), 'opencv': cv2.__version__}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
