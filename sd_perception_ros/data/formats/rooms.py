"""Rendered frames from a folder, as the synthesize command writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sd_perception_ros.data.dataset import Arrays, FolderDataset, FrameFiles
from sd_perception_ros.data.files import find_files, read_json, read_levels, read_rgb
from sd_perception_ros.skeleton import JOINTS, OUTSIDE

NOTHING_IN_RANGE = 65535  # of a depth.png: the sky
MOST_PEOPLE = 8
LEAST_DEPTH_M = 0.1  # a joint beside the camera is nowhere in its picture plane
Pixels = NDArray[np.uint8] | NDArray[np.uint16]


class RoomsDataset(FolderDataset):
    """
    Frames `<key>.image.png` with depth, normals and labels beside them.

    Shares of the foreground and of people, and joints, come with sets that have them: sets that
    were rendered before there were any do not. The first frame decides for all. A frame counts
    once its camera.json is there. Kept in memory, 256 x 192 pixels take 0.55 MB.
    """

    kind = 'rooms'
    layout = 'rendered frames (<key>.image.png and .camera.json)'
    signs = ('*.camera.json',)
    keeps = True
    uniform = True

    def find(self) -> list[FrameFiles]:
        """List the complete frames."""
        names = [file.name for file in find_files(self.folder, '*.camera.json')]
        keys = [name.removesuffix('.camera.json') for name in names]
        if not keys:
            raise FileNotFoundError(
                f'expected {self.layout}, found none in {self.folder}; make some with the '
                'synthesize command, or name the kind of data, as in --data hypersim:data/hypersim'
            )
        self.truths = ('depth_m', 'normals', 'labels')
        if (self.folder / f'{keys[0]}.people.json').is_file():
            self.truths += ('foreground', 'matte', 'joints')
        return [FrameFiles(key, self._files(key)) for key in keys]

    def read(self, frame: FrameFiles) -> Arrays:
        """Read the files as they are; joints come in u, v and flag."""
        files = frame.files
        arrays: dict[str, NDArray[Any]] = {
            'image': read_rgb(files['image']),
            'depth_m': read_levels(files['depth_m'], np.uint16, 'millimetres'),
            'normals': read_rgb(files['normals']),
            'labels': read_levels(files['labels'], np.uint8, 'class ids'),
        }
        for name in files.keys() & {'foreground', 'matte'}:
            arrays[name] = read_levels(files[name], np.uint8, 'shares of pixels')
        if 'joints' in files:
            people, camera = (read_json(files[n]) for n in ('joints', 'camera'))
            arrays['joints'] = to_joints(people, camera)
        return arrays

    def decode(self, arrays: Arrays) -> Arrays:
        """Turn levels into metres, vectors and shares."""
        decoded = dict(arrays)
        decoded['depth_m'] = to_depth_m(arrays['depth_m'])
        decoded['normals'] = to_normals(arrays['normals'])
        for name in arrays.keys() & {'foreground', 'matte'}:
            decoded[name] = (arrays[name] / 255).astype(np.float32)
        return decoded

    def recipe(self) -> dict[str, Any]:
        """Return how the frames were rendered, from recipe.json; empty without it."""
        file = self.folder / 'recipe.json'
        arguments = read_json(file).get('arguments', {}) if file.is_file() else {}
        # Where the furniture lay is the business of that machine.
        return {name: value for name, value in arguments.items() if name != 'assets'}

    def _files(self, key: str) -> dict[str, Path]:
        path = str(self.folder / key)
        png = Path(f'{path}.image.png')
        files = {
            'image': png if png.is_file() else Path(f'{path}.image.jpg'),
            'depth_m': Path(f'{path}.depth.png'),
            'normals': Path(f'{path}.normals.png'),
            'labels': Path(f'{path}.semantic.png'),
        }
        if 'joints' in self.truths:
            files |= {name: Path(f'{path}.{name}.png') for name in ('foreground', 'matte')}
            files['joints'] = Path(f'{path}.people.json')
            files['camera'] = Path(f'{path}.camera.json')
        return files


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


def to_joints(people: list[dict[str, Any]], camera: dict[str, float]) -> NDArray[np.float32]:
    """
    Turn a people.json, the nearest first, into (P, 17, 3) u, v and flag; zeros fill up.

    Joints outside the picture come from their place in space; those beside or behind the camera
    stay unknown.

    :param camera: fx, fy, cx and cy, as camera.json has them.
    """
    rows = np.zeros((MOST_PEOPLE, len(JOINTS), 3), np.float32)
    for row, person in zip(rows, people, strict=False):
        row[:] = person['joints']
        x, y, z = np.array(person['joints_m'], np.float32).T
        z = np.where(z > LEAST_DEPTH_M, z, np.nan)
        u, v = camera['fx'] * x / z + camera['cx'], camera['fy'] * y / z + camera['cy']
        outside = (row[:, 2] == 0) & np.isfinite(z)
        row[outside] = np.stack([u, v, np.full_like(u, OUTSIDE)], 1)[outside]
    return rows
