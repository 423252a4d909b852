"""Images of a user: a folder of images, and beside it a folder for each ground truth."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sd_perception_ros.data.dataset import Arrays, FolderDataset, FrameFiles
from sd_perception_ros.data.files import (
    find_files,
    read_alpha,
    read_ids,
    read_levels,
    read_npy,
    read_rgb,
    read_text,
)
from sd_perception_ros.data.formats.coco import AnnotatedPeople
from sd_perception_ros.data.formats.rooms import to_depth_m, to_normals
from sd_perception_ros.skeleton import JOINTS

PICTURES = ('.png', '.jpg', '.jpeg', '.jfif', '.bmp', '.webp', '.tif', '.tiff')
# Formats that OpenCV cannot read: such files are refused, not silently left out.
_UNREADABLE = ('.heic', '.heif', '.avif', '.gif', '.dng', '.nef', '.cr2', '.arw', '.svg', '.psd')
# Folder of a ground truth, and the suffixes of its files.
_LOSSLESS = ('.png', '.tif', '.tiff')
FOLDERS = {
    'depth_m': ('depth', (*_LOSSLESS, '.npy')),
    'normals': ('normals', (*_LOSSLESS, '.npy')),
    'labels': ('labels', _LOSSLESS),
    'foreground': ('mask', _LOSSLESS),
    'matte': ('alpha', _LOSSLESS),
}
KEYPOINTS = 'keypoints.json'
CLASSES = 'classes.txt'
UNKNOWN = 255  # class id


class ImagesDataset(FolderDataset):
    """
    Images in `image/`, ground truth of the same names in folders beside it; see docs/data.md.

    If there is a folder for a ground truth, it has a file for every image.
    """

    kind = 'folder'
    layout = 'image/NAME.{png,jpg}, and truths such as depth/NAME.png and keypoints.json'
    signs = ('image',)

    def find(self) -> list[FrameFiles]:
        """List the images; existing folders determine `truths`."""
        present = {
            name: (self.folder / folder, endings)
            for name, (folder, endings) in FOLDERS.items()
            if (self.folder / folder).is_dir()
        }
        self.truths = tuple(present)
        self._people = None
        if (self.folder / KEYPOINTS).is_file():
            self._people = AnnotatedPeople(self.folder / KEYPOINTS)
            self.truths += ('joints',)
        if (self.folder / CLASSES).is_file():
            self.classes = tuple(read_text(self.folder / CLASSES).split('\n'))
            self.classes = tuple(filter(None, (name.strip() for name in self.classes)))
        frames = []
        self._check_suffixes()
        for image in find_files(self.folder / 'image', '*'):
            if image.suffix.lower() in PICTURES:
                truths = {n: _beside(image, *where) for n, where in present.items()}
                frames.append(FrameFiles(image.name, {'image': image, **truths}))
        self._check_names({frame.key for frame in frames})
        return frames

    def _check_suffixes(self) -> None:
        others = [
            file.name
            for file in find_files(self.folder / 'image', '*')
            if file.suffix.lower() in _UNREADABLE
        ]
        if others:
            raise ValueError(
                f'{self.folder / "image"}: expected images ({", ".join(PICTURES)}), got '
                f'{len(others)} of other kinds, such as {others[0]}; convert or remove them'
            )

    def _check_names(self, images: set[str]) -> None:
        """Check that keypoints.json and classes.txt fit the images."""
        listed = images if self._people is None else set(self._people.names())
        if unlisted := sorted(images - listed):
            raise ValueError(
                f'{self.folder / KEYPOINTS}: expected every image of image/ among its images, '
                f'also those without people; {len(unlisted)} are not, such as {unlisted[0]}: '
                'correct file_name, or add them'
            )
        if 'labels' in self.truths and not self.classes:
            raise ValueError(
                f'{self.folder / CLASSES}: expected the names of classes 0, 1, ... of labels/, '
                'one a line, found none; write them'
            )

    def read(self, frame: FrameFiles) -> Arrays:
        """Read an image and its truths."""
        readers: dict[str, Callable[[Path], NDArray[Any]]] = {
            'image': partial(read_rgb, turned=True),
            'depth_m': _depth_m,
            'normals': _normals,
            'labels': self._labels,
            'foreground': read_alpha,
            'matte': read_alpha,
        }
        arrays: dict[str, NDArray[Any]] = {
            name: readers[name](file) for name, file in frame.files.items()
        }
        if self._people is not None:
            arrays['joints'] = self._people.joints(frame.key).reshape(-1, len(JOINTS), 3)
            if self.measuring:
                arrays['bodies'] = self._people.bodies(frame.key)
        return arrays

    def notes(self) -> list[str]:
        """Return notes about values that were changed while reading."""
        return [] if self._people is None else self._people.notes()

    def _labels(self, file: Path) -> NDArray[np.uint8]:
        ids = read_ids(file)
        wrong = ids[(ids >= len(self.classes)) & (ids != UNKNOWN)]
        if wrong.size:
            listed = ', '.join(map(str, np.unique(wrong)[:8]))
            raise ValueError(
                f'{file}: expected class ids 0 to {len(self.classes) - 1} of {CLASSES}, or '
                f'{UNKNOWN} for unknown, got {listed} in {wrong.size} pixels; complete '
                f'{CLASSES}, or correct the ids'
            )
        return ids


def _beside(image: Path, folder: Path, endings: tuple[str, ...]) -> Path:
    files = [folder / f'{image.stem}{ending}' for ending in endings]
    return next((file for file in files if file.is_file()), files[0])


def _depth_m(file: Path) -> NDArray[np.float32]:
    """Read millimetres of an image (0: unknown, 65535: beyond the range), or metres of .npy."""
    if file.suffix != '.npy':
        return to_depth_m(read_levels(file, np.uint16, 'millimetres'))
    depth_m = read_npy(file, 2).astype(np.float32)
    depth_m[~(depth_m > 0)] = np.nan
    return depth_m


def _normals(file: Path) -> NDArray[np.float32]:
    """Read levels around 128, or vectors of any length of a .npy file; length 0 is unknown."""
    if file.suffix != '.npy':
        return to_normals(read_rgb(file))
    vectors = np.nan_to_num(read_npy(file, 3)).astype(np.float32)
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    unit: NDArray[np.float32] = np.where(length > 0, vectors / np.maximum(length, 1e-12), 0)
    return unit
