"""Where the camera node's pictures come from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import astuple, dataclass, fields
import importlib.util
import json
import math
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from sd_perception_ros.data.files import find_files, printable, read_rgb
from sd_perception_ros.ros.options import MAX_RATE_HZ, MIN_RATE_HZ
from sd_perception_ros.types import Camera, UInt8

PICTURES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff')
DEMO = Path(__file__).parents[2] / 'assets' / 'demo_sequence'

# Photographs inside the scikit-image wheel that need no download. The stereo picture is the only
# one whose camera is known (Middlebury 2014, at quarter size).
PHOTOGRAPHS: dict[str, Camera | None] = {
    'astronaut.png': None,
    'coffee.png': None,
    'chelsea.png': None,
    'rocket.jpg': None,
    'motorcycle_left.png': Camera(994.978, 994.978, 311.193, 254.877, 741, 500),
}


@dataclass(frozen=True)
class Shot:
    """
    One frame of a source.

    :ivar rgb: (H, W, 3) uint8.
    :ivar camera: its intrinsics, or None where the source does not know them.
    """

    rgb: UInt8
    camera: Camera | None = None


class Source(ABC):
    """
    A list of frames.

    :ivar rate_hz: frames per second as recorded; 0 where the source has no rate.
    :ivar frame_id: frame of the camera; empty where the source does not say.
    """

    rate_hz: float = 0.0
    frame_id: str = ''

    @abstractmethod
    def __len__(self) -> int:
        """Count the frames."""

    @abstractmethod
    def shot(self, index: int) -> Shot:
        """
        Read a frame.

        :raises ValueError: the file is damaged; it is named.
        """


class Pictures(Source):
    """Picture files one after the other."""

    def __init__(self, paths: list[Path], cameras: list[Camera | None] | None = None) -> None:
        self._paths = paths
        self._cameras = cameras or [None] * len(paths)

    def __len__(self) -> int:
        """Count the files."""
        return len(self._paths)

    def shot(self, index: int) -> Shot:
        """Read a file."""
        return Shot(read_picture(self._paths[index]), self._cameras[index])


class Sequence(Source):
    """A folder with sequence.json and frames/<key>.image.png or .jpg, <key>.camera.json."""

    def __init__(self, folder: Path) -> None:
        about = _read_json(folder / 'sequence.json')
        try:
            self.rate_hz = float(about.get('rate_hz', 0.0))
        except (TypeError, ValueError):
            self.rate_hz = math.nan
        if not (self.rate_hz == 0 or MIN_RATE_HZ <= self.rate_hz <= MAX_RATE_HZ):
            raise ValueError(
                f'{folder / "sequence.json"}: rate_hz must be a number from {MIN_RATE_HZ} to '
                f'{MAX_RATE_HZ:g}, or 0 for the default, got {about["rate_hz"]!r}'
            )
        self.frame_id = str(about.get('frame_id', ''))
        frames = folder / 'frames'
        self._images = [
            path for path in find_files(frames, '*.image.*') if path.suffix.lower() in PICTURES
        ]
        if not self._images:
            raise ValueError(f'{frames} holds no <key>.image.png or <key>.image.jpg')

    def __len__(self) -> int:
        """Count the frames."""
        return len(self._images)

    def shot(self, index: int) -> Shot:
        """Read a picture and its camera."""
        path = self._images[index]
        beside = path.with_name(path.name.split('.image.')[0] + '.camera.json')
        camera = read_camera(beside) if beside.is_file() else None
        return Shot(read_picture(path), camera)


class Video(Source):
    """A video file, read forwards."""

    def __init__(self, path: Path) -> None:
        self._path = path
        if printable(path) != str(path):  # OpenCV would end the process by SIGSEGV
            raise ValueError(
                f'expected a video with a file name in UTF-8, got {printable(path)}; rename it'
            )
        self._capture = cv2.VideoCapture(str(path))
        self._count = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        rate_hz = self._capture.get(cv2.CAP_PROP_FPS)
        self.rate_hz = rate_hz if MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ else 0.0
        self._next = 0
        if not self._capture.isOpened() or self._count < 1:
            raise ValueError(
                f'{path} is not a video whose frames OpenCV can read and count; convert it, for '
                f'example with ffmpeg -i {path.name} new.mp4'
            )
        self._capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 0)

    def __len__(self) -> int:
        """Count the frames, as the file says."""
        return self._count

    def shot(self, index: int) -> Shot:
        """Read a frame; the next one is quick, another one seeks."""
        if index != self._next:
            self._capture.set(cv2.CAP_PROP_POS_FRAMES, index)
        good, bgr = self._capture.read()
        self._next = index + 1
        if not good:
            raise ValueError(f'{self._path}: frame {index} of {self._count} cannot be read')
        return Shot(np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8))


def open_source(name: str) -> Source:
    """
    Open what the parameter `source` names.

    :raises ValueError: it is nothing that can be replayed; what can be is said.
    """
    if name == 'skimage':
        return _photographs()
    # os.path: pathlib raises for a home of nobody and for a name that is too long.
    path = DEMO if name == 'demo' else Path(os.path.expanduser(name))
    if os.path.isfile(path / 'sequence.json'):
        return Sequence(path)
    if os.path.isdir(path):
        found = [p for p in find_files(path, '*') if p.suffix.lower() in PICTURES]
        if not found:
            raise ValueError(
                f"source '{name}' is a folder without pictures ({', '.join(PICTURES)}) and "
                'without sequence.json'
            )
        return Pictures(found)
    if os.path.isfile(path):
        return Pictures([path]) if path.suffix.lower() in PICTURES else Video(path)
    raise ValueError(
        f"source '{name}' does not exist ({path.absolute()}); give a folder of pictures, a video "
        "file, a sequence folder, or one of the words 'demo' and 'skimage'"
    )


def read_picture(path: Path) -> UInt8:
    """
    Read a picture file as (H, W, 3) uint8 RGB, as the sensor saw it (EXIF is ignored).

    :raises ValueError: it is damaged or no picture.
    """
    try:
        return read_rgb(path)
    except OSError as error:
        raise ValueError(str(error)) from None


def read_camera(path: Path) -> Camera:
    """
    Read the intrinsics that a rendered frame comes with.

    :raises ValueError: a value is missing, no number or impossible.
    """
    values = _read_json(path)
    try:
        camera = Camera(
            fx=float(values['fx']),
            fy=float(values['fy']),
            cx=float(values['cx']),
            cy=float(values['cy']),
            width=int(values['width']),
            height=int(values['height']),
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        names = ', '.join(f.name for f in fields(Camera))
        raise ValueError(f'{path} must hold the numbers {names}; wrong: {error}') from None
    positive = min(camera.fx, camera.fy, camera.width, camera.height) > 0
    if not positive or not all(map(math.isfinite, astuple(camera))):
        raise ValueError(
            f'{path} must hold finite numbers, positive but for cx and cy, got {camera}'
        )
    return camera


def _photographs() -> Source:
    found = importlib.util.find_spec('skimage')
    if found is None or found.origin is None:
        raise ValueError("source 'skimage' needs the scikit-image package: pip install it")
    folder = Path(found.origin).parent / 'data'
    present = [name for name in PHOTOGRAPHS if (folder / name).is_file()]
    if not present:
        raise ValueError(f'{folder} holds none of {", ".join(PHOTOGRAPHS)}')
    return Pictures([folder / name for name in present], [PHOTOGRAPHS[n] for n in present])


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise ValueError(f'{path} cannot be read as JSON: {error}') from None
    if not isinstance(values, dict):
        raise ValueError(f'{path} must hold a JSON object, got {type(values).__name__}')
    return values
