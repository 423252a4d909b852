"""Rendered frames from a folder, as the synthesize command writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sd_perception_ros.data.dataset import Arrays, FolderDataset, FrameFiles
from sd_perception_ros.data.files import find_files, read_json, read_levels, read_rgb
from sd_perception_ros.skeleton import JOINTS, OUTSIDE

NOTHING_IN_RANGE = 65535  # value in depth.png beyond the range: the sky
MAX_PEOPLE = 8
MIN_DEPTH_M = 0.1  # a joint beside the camera has no projection
Pixels = NDArray[np.uint8] | NDArray[np.uint16]


class RoomsDataset(FolderDataset):
    """
    Frames `<key>.image.png` with depth, normals and labels beside them.

    Foreground, mattes and joints are optional: older sets do not have them. The first frame
    decides for all. A frame is complete once it has a camera.json. A cached frame of 256 x 192
    pixels takes 0.55 MB.
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
        """Read the files without conversion, except joints: u, v and flag."""
        files = frame.files
        arrays: dict[str, NDArray[Any]] = {
            'image': read_rgb(files['image']),
            'depth_m': read_levels(files['depth_m'], np.uint16, 'millimetres'),
            'normals': read_rgb(files['normals']),
            'labels': read_levels(files['labels'], np.uint8, 'class ids'),
        }
        for name in files.keys() & {'foreground', 'matte'}:
            arrays[name] = read_levels(files[name], np.uint8, 'fractions of pixels')
        if 'joints' in files:
            people, camera = (read_json(files[n]) for n in ('joints', 'camera'))
            arrays['joints'] = to_joints(people, camera)
        return arrays

    def decode(self, arrays: Arrays) -> Arrays:
        """Convert levels to metres, unit vectors and alpha."""
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
    """Convert (H, W) millimetres to float32 metres; NaN: unknown, +Inf: beyond the range."""
    depth_m: NDArray[np.float32] = (depth_mm / 1000).astype(np.float32)
    depth_m[depth_mm == 0] = np.nan
    depth_m[depth_mm == NOTHING_IN_RANGE] = np.inf
    return depth_m


def to_normals(levels: Pixels) -> NDArray[np.float32]:
    """Convert (H, W, 3) levels around 128 to float32 unit vectors; (0, 0, 0): unknown."""
    vectors = levels.astype(np.float32) - 128
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    unit: NDArray[np.float32] = (vectors / np.maximum(length, 1)).astype(np.float32)
    return unit


def to_joints(people: list[dict[str, Any]], camera: dict[str, float]) -> NDArray[np.float32]:
    """
    Convert a people.json, nearest first, to (P, 17, 3) u, v and flag; unused rows are zeros.

    Joints outside the image are projected from their 3D position; joints beside or behind the
    camera stay unknown.

    :param camera: fx, fy, cx and cy of camera.json.
    """
    rows = np.zeros((MAX_PEOPLE, len(JOINTS), 3), np.float32)
    for row, person in zip(rows, people, strict=False):
        row[:] = person['joints']
        x, y, z = np.array(person['joints_m'], np.float32).T
        z = np.where(z > MIN_DEPTH_M, z, np.nan)
        u, v = camera['fx'] * x / z + camera['cx'], camera['fy'] * y / z + camera['cy']
        outside = (row[:, 2] == 0) & np.isfinite(z)
        row[outside] = np.stack([u, v, np.full_like(u, OUTSIDE)], 1)[outside]
    return rows
