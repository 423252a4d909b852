"""Light by direction: environment maps instead of two plain colours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import hashlib
import math
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sd_perception_ros.git_lfs import refuse_lfs_pointer
from sd_perception_ros.paths import printable

Float = NDArray[np.floating[Any]]
Rng = np.random.Generator
SIZE_PX = (32, 16)  # light on a matt surface is smooth
BRIGHTEST = 30.0  # times the mean: clip the sun, as these maps cast no hard shadows
SHARE = 0.7  # fraction of the scenes with a map


@dataclass(frozen=True)
class Environment:
    """
    The light on a matt surface, by its normal.

    :ivar received: (h, w, 3) linear RGB, equirectangular: normals straight up in the first row,
        towards the heading of `turn_rad` in the first column. Uniform light of 1 gives 1.
    """

    received: Float
    turn_rad: float = 0.0

    def at(self, normal: Float) -> Float:
        """Return the light, (N, 3), on surfaces with (N, 3) unit normals; z is up."""
        rows, columns = self.received.shape[:2]
        heading = np.arctan2(normal[:, 0], normal[:, 1]) - self.turn_rad
        column = (heading / (2 * math.pi) % 1 * columns).astype(int) % columns
        below = np.arccos(np.clip(normal[:, 2], -1, 1)) / math.pi
        row = np.minimum((below * rows).astype(int), rows - 1)
        return self.received[row, column]


def environment_files(folder: Path | None) -> list[Path]:
    """
    List the maps (*.exr, *.hdr) of a folder.

    :raises FileNotFoundError: there are none.
    """
    if folder is None:
        return []
    files = sorted([*folder.glob('*.exr'), *folder.glob('*.hdr')])
    if not files:
        raise FileNotFoundError(
            f'expected environment maps (*.exr, *.hdr) in {folder}, found none; see --help of '
            'synthesize'
        )
    return files


def read_environment(file: Path) -> Environment:
    """
    Read a map, scaled to a mean of 1, and integrate it over the hemisphere of each normal.

    NaN counts as no light, and infinity as the brightest light of the map.

    :raises ValueError: the file is no picture in colour, or all of it is black.
    """
    pixels = _read(file)
    bright = np.nan_to_num(pixels, nan=0.0, posinf=_brightest(pixels), neginf=0.0)
    small = cv2.resize(bright, SIZE_PX, interpolation=cv2.INTER_AREA)
    light = np.maximum(small[..., ::-1], 0)
    if not light.any():
        raise ValueError(f'{printable(file)}: expected light, got a map that is black')
    directions, area = _directions()
    flat = light.reshape(-1, 3)
    flat = np.minimum(flat, BRIGHTEST * np.average(flat.mean(-1), weights=area))
    flat = flat / np.average(flat.mean(-1), weights=area)
    weights = np.maximum(directions @ directions.T, 0) * area
    received = weights @ flat / weights.sum(1, keepdims=True)
    return Environment(received.reshape(light.shape).astype(np.float32))


def _read(file: Path) -> Float:
    """Read the colours of a map, (H, W, 3) float32, BGR."""
    os.environ.setdefault('OPENCV_IO_ENABLE_OPENEXR', '1')  # off by default in OpenCV's wheels
    refuse_lfs_pointer(file)
    try:
        # Not imread, which ends the process by SIGSEGV if the file name is not UTF-8.
        pixels: Any = cv2.imdecode(np.fromfile(file, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:  # also of an empty file, and of a size above OpenCV's limit
        pixels = None
    if pixels is None or pixels.ndim != 3:
        raise ValueError(
            f'{printable(file)}: expected an environment map in colour (EXR, HDR); copy or '
            'download it again, or remove it'
        )
    return np.ascontiguousarray(pixels[..., :3], np.float32)


def _brightest(pixels: Float) -> float:
    return float(np.max(pixels, where=np.isfinite(pixels), initial=0.0))


def random_environment(rng: Rng, files: Sequence[Path]) -> Environment | None:
    """Draw a map with a random rotation, or none."""
    if not files or rng.random() > SHARE:
        return None
    drawn = read_environment(files[int(rng.integers(len(files)))])
    return Environment(drawn.received, float(rng.uniform(-math.pi, math.pi)))


def _directions() -> tuple[Float, Float]:
    """Return the unit direction, (N, 3), and the area on the sphere, (N,), of a map's pixels."""
    columns, rows = SIZE_PX
    below, heading = np.meshgrid(
        (np.arange(rows) + 0.5) / rows * math.pi,
        (np.arange(columns) + 0.5) / columns * 2 * math.pi,
        indexing='ij',
    )
    flat = np.sin(below)
    directions = [flat * np.sin(heading), flat * np.cos(heading), np.cos(below)]
    return np.stack(directions, -1).reshape(-1, 3), flat.ravel()


def digest(files: Sequence[Path]) -> str:
    """Return the SHA-256 of maps, or 'none' without any; their id in a recipe."""
    if not files:
        return 'none'
    return hashlib.sha256(b''.join(file.read_bytes() for file in files)).hexdigest()
