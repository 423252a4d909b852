"""The files of a rendered frame; camera.json is written last."""

from __future__ import annotations

from dataclasses import asdict, dataclass
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sd_perception_ros.safe_save import write_bytes
from sd_perception_ros.synthetic.joints import Figure
from sd_perception_ros.synthetic.render import Float, GroundTruth
from sd_perception_ros.synthetic.scene import View

UInt8 = NDArray[np.uint8]
FRAME_PARTS = (
    'image.png',
    'depth.png',
    'normals.png',
    'semantic.png',
    'foreground.png',
    'matte.png',
    'people.json',
    'camera.json',
)


@dataclass(frozen=True)
class Frame:
    """
    An image and its ground truth.

    :ivar image: (H, W, 3) sRGB.
    :ivar foreground: (H, W) fraction of each pixel, 0..1, covered by objects and people.
    :ivar matte: (H, W) fraction of each pixel, 0..1, covered by people.
    :ivar people: people with a joint in the image, nearest first.
    """

    view: View
    image: UInt8
    truth: GroundTruth
    foreground: Float
    matte: Float
    people: list[Figure]


def write_frame(folder: Path, key: str, frame: Frame, jpeg: int = 0) -> None:
    """
    Write the files of a frame.

    :param jpeg: quality of a JPEG image, 0 for PNG.
    """
    truth, view = frame.truth, frame.view
    millimetres = np.where(np.isfinite(truth.depth_m), np.round(truth.depth_m * 1000), 65535)
    normals = (np.round(truth.normals * 127) + 128).astype(np.uint8)
    flags = [cv2.IMWRITE_PNG_COMPRESSION, 6 if jpeg else 3]
    pictures: dict[str, NDArray[Any]] = {
        'depth.png': millimetres.astype(np.uint16),
        'normals.png': normals[..., ::-1],
        'semantic.png': truth.semantic,
        'foreground.png': np.round(frame.foreground * 255).astype(np.uint8),
        'matte.png': np.round(frame.matte * 255).astype(np.uint8),
    }
    bgr = frame.image[..., ::-1]
    if jpeg:
        _write_image(folder / f'{key}.image.jpg', bgr, [cv2.IMWRITE_JPEG_QUALITY, jpeg])
    else:
        _write_image(folder / f'{key}.image.png', bgr, flags)
    for name, pixels in pictures.items():
        _write_image(folder / f'{key}.{name}', pixels, flags)
    people = [
        {'joints': _rounded(figure.joints, 2), 'joints_m': _rounded(figure.joints_m, 3)}
        for figure in frame.people
    ]
    write_bytes(folder / f'{key}.people.json', json.dumps(people).encode())
    camera = {
        **asdict(view.camera),
        'camera_height_m': round(float(view.position_m[2]), 5),
        'pitch_deg': round(view.pitch_deg, 5),
        'roll_deg': round(view.roll_deg, 5),
    }
    write_bytes(folder / f'{key}.camera.json', json.dumps(camera).encode())


def _rounded(rows: Float, digits: int) -> list[list[float]]:
    return [[round(float(value), digits) for value in row] for row in rows]


def _write_image(path: Path, pixels: NDArray[Any], flags: list[int]) -> None:
    done, data = cv2.imencode(path.suffix, np.ascontiguousarray(pixels), flags)
    if not done:
        raise RuntimeError(f"could not encode '{path}'")
    write_bytes(path, data.tobytes())
