"""Rendered frames from a folder, as the synthesize command writes them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray
import torch
from torch import Tensor

from sd_perception_ros.skeleton import JOINTS
from sd_perception_ros.types import Sample

NOTHING_IN_RANGE = 65535  # of a depth.png: the sky
MOST_PEOPLE = 8
Pixels = NDArray[np.uint8] | NDArray[np.uint16]


class RoomsDataset:
    """
    Frames `<key>.image.png` with depth, normals and labels beside them.

    Shares of the foreground and of people, and joints, come with sets that have them: sets that
    were rendered before there were any do not. The first frame decides for all.

    :param folder: where they are; a frame counts once its camera.json is there.
    :param limit: use only the first frames; 0 uses all.
    :param keep: hold the decoded pixels in memory (0.55 MB for a 256 x 192 frame).
    :raises FileNotFoundError: the folder holds no complete frame.
    """

    def __init__(self, folder: Path, limit: int = 0, keep: bool = False) -> None:
        self.folder = folder
        names = sorted(file.name for file in folder.glob('*.camera.json'))
        self.keys = [name.removesuffix('.camera.json') for name in names][: limit or None]
        self._kept: dict[int, dict[str, Pixels]] | None = {} if keep else None
        if not self.keys:
            raise FileNotFoundError(
                'expected rendered frames (<key>.image.png and .camera.json), found none in '
                f'{folder}; make some with the synthesize command'
            )
        self.has_people = (folder / f'{self.keys[0]}.people.json').is_file()

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self.keys)

    def __getitem__(self, index: int) -> Sample:
        """Return a frame as a batch of one; keys and units as `Sample` says."""
        pixels = self._pixels(index)
        normals = torch.from_numpy(to_normals(pixels['normals']))
        sample = {
            'image': _to_image(pixels['image']),
            'depth_m': torch.from_numpy(to_depth_m(pixels['depth']))[None, None],
            'normals': normals.permute(2, 0, 1)[None].contiguous(),
            'labels': torch.from_numpy(pixels['semantic'])[None, None].float(),
        }
        if self.has_people:
            for name in ('foreground', 'matte'):
                sample[name] = torch.from_numpy(pixels[name])[None, None].float() / 255
            file = self.folder / f'{self.keys[index]}.people.json'
            sample['joints'] = torch.from_numpy(to_joints(json.loads(file.read_text())))[None]
        return sample

    def fingerprint(self) -> str:
        """Return a short name of this very set: of its frames and the sizes of their pictures."""
        sizes = [f'{key} {_image(self.folder, key).stat().st_size}' for key in self.keys]
        return hashlib.sha256('\n'.join(sizes).encode()).hexdigest()[:16]

    def recipe(self) -> dict[str, Any]:
        """Return how the frames were made, as recipe.json says; empty without one."""
        file = self.folder / 'recipe.json'
        arguments = json.loads(file.read_text())['arguments'] if file.is_file() else {}
        # Where the furniture lay is the business of that machine.
        return {name: value for name, value in arguments.items() if name != 'assets'}

    def images(self, indices: list[int]) -> Tensor:
        """Return the pictures alone of frames of one size, (B, 3, H, W) in -1..1."""
        return torch.cat([_to_image(self._pixels(index)['image']) for index in indices])

    def batch(self, indices: list[int]) -> Sample:
        """Return several frames of one size as a batch."""
        samples = [self[index] for index in indices]
        return {name: torch.cat([sample[name] for sample in samples]) for name in samples[0]}

    def _pixels(self, index: int) -> dict[str, Pixels]:
        if self._kept is not None and index in self._kept:
            return self._kept[index]
        key = self.keys[index]
        pixels: dict[str, Pixels] = {
            'image': _read_color(_image(self.folder, key)),
            'normals': _read_color(self.folder / f'{key}.normals.png'),
        }
        shares = ('foreground', 'matte') if self.has_people else ()
        for name in ('depth', 'semantic', *shares):
            pixels[name] = _read(self.folder / f'{key}.{name}.png', cv2.IMREAD_UNCHANGED)
        if self._kept is not None:
            self._kept[index] = pixels
        return pixels


def _to_image(rgb: Pixels) -> Tensor:
    return torch.from_numpy(rgb).permute(2, 0, 1)[None].float() / 255 * 2 - 1


def to_depth_m(depth_mm: Pixels) -> NDArray[np.float32]:
    """Turn (H, W) millimetres into float32 metres, NaN unknown, +Inf nothing in range."""
    depth_m: NDArray[np.float32] = (depth_mm / 1000).astype(np.float32)
    depth_m[depth_mm == 0] = np.nan
    depth_m[depth_mm == NOTHING_IN_RANGE] = np.inf
    return depth_m


def to_normals(levels: Pixels) -> NDArray[np.float32]:
    """Turn (H, W, 3) levels around 128 into float32 unit vectors, (0, 0, 0) unknown."""
    vectors = levels.astype(np.float32) - 128
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    unit: NDArray[np.float32] = (vectors / np.maximum(length, 1)).astype(np.float32)
    return unit


def to_joints(people: list[dict[str, Any]]) -> NDArray[np.float32]:
    """Turn a people.json, the nearest first, into (P, 17, 3) u, v and flag; zeros fill up."""
    rows = np.zeros((MOST_PEOPLE, len(JOINTS), 3), np.float32)
    for row, person in zip(rows, people, strict=False):
        row[:] = person['joints']
    return rows


def _image(folder: Path, key: str) -> Path:
    png = folder / f'{key}.image.png'
    return png if png.is_file() else folder / f'{key}.image.jpg'


def _read_color(file: Path) -> Pixels:
    # IMREAD_COLOR_RGB would do, but OpenCV before 4.10 does not know it.
    return np.asarray(_read(file, cv2.IMREAD_COLOR)[..., ::-1], np.uint8, order='C')


def _read(file: Path, flags: int) -> Pixels:
    pixels: Pixels | None = cast('Any', cv2.imread(str(file), flags))
    if pixels is None:
        raise FileNotFoundError(
            f'expected a picture, found none that can be read at {file}; delete the '
            'camera.json of this frame and render it again, or leave the frame out'
        )
    return pixels
