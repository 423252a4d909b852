"""Sources of the camera node: image files, rendered sequences and videos."""

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

from sd_perception_ros.data.files import find_files, read_rgb
from sd_perception_ros.git_lfs import GitLfsPointerError, refuse_lfs_pointer
from sd_perception_ros.paths import printable, user_path
from sd_perception_ros.ros.options import MAX_RATE_HZ, MIN_RATE_HZ
from sd_perception_ros.types import Camera, UInt8

IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff')
DEMO = Path(__file__).parents[2] / 'assets' / 'demo_sequence'

# Photographs in the scikit-image wheel, without a download. Intrinsics are known for the stereo
# image only (Middlebury 2014, at quarter size).
PHOTOGRAPHS: dict[str, Camera | None] = {
    'astronaut.png': None,
    'coffee.png': None,
    'chelsea.png': None,
    'rocket.jpg': None,
    'motorcycle_left.png': Camera(994.978, 994.978, 311.193, 254.877, 741, 500),
}


@dataclass(frozen=True)
class SourceFrame:
    """
    One frame of a source.

    :ivar rgb: (H, W, 3) uint8.
    :ivar camera: intrinsics; None if the source has none.
    """

    rgb: UInt8
    camera: Camera | None = None


class Source(ABC):
    """
    A list of frames.

    :ivar rate_hz: recorded frames per second; 0 if unknown.
    :ivar frame_id: frame of the camera; empty if unknown.
    """

    rate_hz: float = 0.0
    frame_id: str = ''

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of frames."""

    @abstractmethod
    def frame(self, index: int) -> SourceFrame:
        """
        Read a frame.

        :raises ValueError: the file is damaged.
        """


class ImageFiles(Source):
    """Image files, in the given order."""

    def __init__(self, paths: list[Path], cameras: list[Camera | None] | None = None) -> None:
        self._paths = paths
        self._cameras = cameras or [None] * len(paths)

    def __len__(self) -> int:
        """Return the number of files."""
        return len(self._paths)

    def frame(self, index: int) -> SourceFrame:
        """Read a file."""
        return SourceFrame(read_image(self._paths[index]), self._cameras[index])


class Sequence(Source):
    """A folder with sequence.json and frames/<key>.image.png or .jpg, <key>.camera.json."""

    def __init__(self, folder: Path) -> None:
        metadata = _read_json(folder / 'sequence.json')
        try:
            self.rate_hz = float(metadata.get('rate_hz', 0.0))
        except (TypeError, ValueError):
            self.rate_hz = math.nan
        if not (self.rate_hz == 0 or MIN_RATE_HZ <= self.rate_hz <= MAX_RATE_HZ):
            raise ValueError(
                f'{folder / "sequence.json"}: rate_hz must be a number from {MIN_RATE_HZ} to '
                f'{MAX_RATE_HZ:g}, or 0 for the default, got {metadata["rate_hz"]!r}'
            )
        self.frame_id = str(metadata.get('frame_id', ''))
        frames = folder / 'frames'
        self._images = [
            path
            for path in find_files(frames, '*.image.*')
            if path.suffix.lower() in IMAGE_SUFFIXES
        ]
        if not self._images:
            raise ValueError(f'{frames} has no <key>.image.png or <key>.image.jpg')

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self._images)

    def frame(self, index: int) -> SourceFrame:
        """Read an image and its intrinsics."""
        path = self._images[index]
        camera_path = path.with_name(path.name.split('.image.')[0] + '.camera.json')
        camera = read_camera(camera_path) if camera_path.is_file() else None
        return SourceFrame(read_image(path), camera)


class Video(Source):
    """A video file."""

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
                f'OpenCV cannot read {path} as a video; convert it, for example with '
                f'ffmpeg -i {path.name} new.mp4'
            )
        self._capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 0)

    def __len__(self) -> int:
        """Return the number of frames in the file's header."""
        return self._count

    def frame(self, index: int) -> SourceFrame:
        """Read a frame; in order is fast, other frames need a seek."""
        if index != self._next:
            self._capture.set(cv2.CAP_PROP_POS_FRAMES, index)
        success, bgr = self._capture.read()
        self._next = index + 1
        if not success:
            raise ValueError(f'{self._path}: frame {index} of {self._count} cannot be read')
        return SourceFrame(np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8))


def open_source(name: str) -> Source:
    """
    Open the source of the parameter `source`.

    :raises ValueError: no such source, or it has no readable images.
    """
    if name == 'skimage':
        return _photographs()
    # os.path below: pathlib raises for names that are too long.
    path = DEMO if name == 'demo' else user_path(name)
    if os.path.isfile(path / 'sequence.json'):
        return Sequence(path)
    if os.path.isdir(path):
        images = [p for p in find_files(path, '*') if p.suffix.lower() in IMAGE_SUFFIXES]
        if not images:
            raise ValueError(
                f"source '{name}' is a folder without images ({', '.join(IMAGE_SUFFIXES)}) and "
                'without sequence.json'
            )
        return ImageFiles(images)
    if os.path.isfile(path):
        refuse_lfs_pointer(path)
        is_image = path.suffix.lower() in IMAGE_SUFFIXES
        return ImageFiles([path]) if is_image else Video(path)
    raise ValueError(
        f"source '{name}' does not exist ({path.absolute()}); give a folder of images, a video "
        "file, a sequence folder, 'demo' or 'skimage'"
    )


def read_image(path: Path) -> UInt8:
    """
    Read an image file as (H, W, 3) uint8 RGB; the EXIF orientation is ignored.

    :raises ValueError: the file is damaged or no image.
    """
    try:
        return read_rgb(path)
    except OSError as error:
        raise ValueError(str(error)) from None


def read_camera(path: Path) -> Camera:
    """
    Read the intrinsics of a rendered frame from a JSON file.

    :raises ValueError: a value is missing, not a number, or impossible.
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
        raise ValueError(f'{path} must have the numbers {names}; wrong: {error}') from None
    positive = min(camera.fx, camera.fy, camera.width, camera.height) > 0
    if not positive or not all(map(math.isfinite, astuple(camera))):
        raise ValueError(
            f'{path} must have finite numbers, positive except cx and cy, got {camera}'
        )
    return camera


def _photographs() -> Source:
    spec = importlib.util.find_spec('skimage')
    if spec is None or spec.origin is None:
        raise ValueError("source 'skimage' needs the package scikit-image: pip install it")
    folder = Path(spec.origin).parent / 'data'
    names = [name for name in PHOTOGRAPHS if (folder / name).is_file()]
    if not names:
        raise ValueError(f'{folder} has none of {", ".join(PHOTOGRAPHS)}')
    return ImageFiles([folder / name for name in names], [PHOTOGRAPHS[name] for name in names])


def _read_json(path: Path) -> dict[str, Any]:
    try:
        refuse_lfs_pointer(path)
        values = json.loads(path.read_text(encoding='utf-8'))
    except GitLfsPointerError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f'{path} cannot be read as JSON: {error}') from None
    if not isinstance(values, dict):
        raise ValueError(f'{path} must contain a JSON object, got {type(values).__name__}')
    return values
