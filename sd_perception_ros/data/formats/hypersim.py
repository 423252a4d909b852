"""Hypersim: rendered rooms in HDF5 (Roberts et al., arXiv 2011.02523)."""

from __future__ import annotations

import csv
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sd_perception_ros.data.dataset import Arrays, FolderDataset, FrameFiles
from sd_perception_ros.data.files import AGAIN, find_files, read_hdf5, read_rgb, read_text

SPLIT_FILE = 'metadata_images_split_scene_v1.csv'
SPLIT_COLUMNS = (
    'scene_name',
    'camera_name',
    'frame_id',
    'split_partition_name',
    'included_in_public_release',
)
CAMERA_FILE = 'metadata_camera_parameters.csv'
# Camera of all scenes, except tilted and shifted ones in CAMERA_FILE: 60 degrees wide, 4:3.
USUAL_CAMERA = np.diag([np.tan(np.pi / 6), np.tan(np.pi / 6) * 3 / 4, -1.0])
# Depth beyond this (through windows) is infinite: GenPercept and Marigold exclude it from the
# quantiles of a target.
FAR_M = 65.0
NYU40 = (
    'wall',
    'floor',
    'cabinet',
    'bed',
    'chair',
    'sofa',
    'table',
    'door',
    'window',
    'bookshelf',
    'picture',
    'counter',
    'blinds',
    'desk',
    'shelves',
    'curtain',
    'dresser',
    'pillow',
    'mirror',
    'floor mat',
    'clothes',
    'ceiling',
    'books',
    'refrigerator',
    'television',
    'paper',
    'towel',
    'shower curtain',
    'box',
    'whiteboard',
    'person',
    'night stand',
    'toilet',
    'sink',
    'lamp',
    'bathtub',
    'bag',
    'other structure',
    'other furniture',
    'other prop',
)


class HypersimDataset(FolderDataset):
    """
    Images made from linear colours, depth along the optical axis, normals, and NYU40 classes.

    Splits need SPLIT_FILE in the folder, except `all`. With CAMERA_FILE beside it, the depth of
    tilted and shifted cameras is exact. Both files are in the code of the authors. Without
    linear colours, the preview images are used.
    """

    kind = 'hypersim'
    layout = (
        'ai_VVV_NNN/images/scene_cam_XX_geometry_hdf5/frame.IIII.depth_meters.hdf5, and '
        'scene_cam_XX_final_hdf5/frame.IIII.color.hdf5'
    )
    signs = ('ai_*_*/images/scene_cam_*_geometry_hdf5',)
    splits = ('train', 'val', 'test', 'all')
    classes = NYU40

    def find(self) -> list[FrameFiles]:
        """List the frames of the split with depth; the first one determines other `truths`."""
        self._cameras = _read_cameras(self.folder / CAMERA_FILE)
        pattern = 'ai_*_*/images/scene_cam_*_geometry_hdf5/frame.*.depth_meters.hdf5'
        files = find_files(self.folder, pattern)
        if self.split != 'all' and files:
            chosen = self._split_keys()
            files = [file for file in files if _key(file) in chosen]
        kinds = {'depth_m': 'depth_meters', 'normals': 'normal_cam', 'labels': 'semantic'}
        present = [name for name in kinds if files and _beside(files[0], kinds[name]).is_file()]
        self.truths = tuple(present)
        return [
            FrameFiles(
                _key(file),
                {'image': _image_file(file)}
                | {name: _beside(file, kinds[name]) for name in present},
            )
            for file in files
        ]

    def read(self, frame: FrameFiles) -> Arrays:
        """Read and convert the files of a frame."""
        files = frame.files
        distance_m = read_hdf5(files['depth_m']).astype(np.float32)
        height, width = distance_m.shape
        rays = self._rays(height, width, frame.key.split('/')[0])
        arrays: dict[str, NDArray[Any]] = {'depth_m': to_depth_m(distance_m, rays)}
        if files['image'].suffix == '.hdf5':
            light = read_hdf5(files['image']).astype(np.float32)
            arrays['image'] = tone_mapped(light, np.isfinite(distance_m))
        else:
            arrays['image'] = read_rgb(files['image'])
        if 'normals' in files:
            arrays['normals'] = to_normals(read_hdf5(files['normals']).astype(np.float32), rays)
        if 'labels' in files:
            ids = read_hdf5(files['labels']).astype(np.int32)
            arrays['labels'] = np.where((ids < 1) | (ids > len(NYU40)), 255, ids - 1)
        return arrays

    def _rays(self, height: int, width: int, scene: str) -> NDArray[np.float32]:
        camera = self._cameras.get(scene)
        if camera is not None and not np.allclose(camera, USUAL_CAMERA, atol=1e-6):
            return camera_rays(height, width, camera)
        return _usual_rays(height, width)

    def _split_keys(self) -> set[str]:
        file = self.folder / SPLIT_FILE
        if not file.is_file():
            raise FileNotFoundError(
                f'expected the split of the authors at {file}, found none; copy it from '
                'evermotion_dataset/analysis of their repository, or take every frame: '
                f'{self.kind}:{self.folder}:all'
            )
        return {
            f'{row["scene_name"]}/{row["camera_name"]}/{int(row["frame_id"]):04d}'
            for row in _rows(file, *SPLIT_COLUMNS)
            if row['split_partition_name'] == self.split
            and row['included_in_public_release'] == 'True'
        }


def camera_rays(
    height: int, width: int, camera: NDArray[np.float64] | None = None
) -> NDArray[np.float32]:
    """
    Return the ray through each pixel centre, (H, W, 3): x right, y down, z = 1 forward.

    :param camera: M_cam_from_uv of the authors, (3, 3): from u (right) and v (up), both -1..1
        from edge to edge, to their camera frame (y up, z backwards).
    """
    matrix = USUAL_CAMERA if camera is None else camera
    u = (np.arange(width) + 0.5) / width * 2 - 1
    v = 1 - (np.arange(height) + 0.5) / height * 2
    points = np.stack([*np.meshgrid(u, v), np.ones((height, width))], -1) @ matrix.T
    rays: NDArray[np.float32] = (points / -points[..., 2:]).astype(np.float32)
    return rays * np.array([1, -1, -1], np.float32)


@lru_cache(1)
def _usual_rays(height: int, width: int) -> NDArray[np.float32]:
    return camera_rays(height, width)


def to_depth_m(distance_m: NDArray[np.float32], rays: NDArray[np.float32]) -> NDArray[np.float32]:
    """
    Convert distances from the camera centre to depth along its axis; infinite from 65 m on.

    NaN stays NaN.
    """
    depth_m: NDArray[np.float32] = distance_m / np.linalg.norm(rays, axis=-1)
    depth_m[~(depth_m > 0)] = np.nan
    depth_m[depth_m >= FAR_M] = np.inf
    return depth_m


def to_normals(normals: NDArray[np.float32], rays: NDArray[np.float32]) -> NDArray[np.float32]:
    """
    Convert normals from the camera frame of the authors (y up, z backwards) to the optical frame.

    Normals of faces that are visible from behind are flipped to face the camera. NaN becomes
    (0, 0, 0).
    """
    optical = np.nan_to_num(normals) * np.array([1, -1, -1], np.float32)
    away = (optical * rays).sum(-1, keepdims=True) > 0
    length = np.linalg.norm(optical, axis=-1, keepdims=True)
    facing = np.where(away, -optical, optical) / np.maximum(length, 1e-6)
    unit: NDArray[np.float32] = np.where(length > 0.5, facing, 0).astype(np.float32)
    return unit


def tone_mapped(light: NDArray[np.float32], known: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """
    Convert linear colours to sRGB as the authors do: the 90th percentile becomes 0.8.

    :param light: (H, W, 3), linear, not negative.
    :param known: (H, W) mask of rendered pixels.
    """
    gamma = 1 / 2.2
    brightness = light @ np.array([0.3, 0.59, 0.11], np.float32)
    bright = float(np.percentile(brightness[known], 90)) if known.any() else 0.0
    scale = 0.8 ** (1 / gamma) / bright if bright > 1e-4 else 1.0
    levels = np.power(np.maximum(np.nan_to_num(light) * scale, 0), gamma).clip(0, 1) * 255
    return np.asarray(levels.round(), np.uint8)


def _read_cameras(file: Path) -> dict[str, NDArray[np.float64]]:
    if not file.is_file():
        return {}
    numbers = [f'M_cam_from_uv_{i}{j}' for i in range(3) for j in range(3)]
    try:
        return {
            row['scene_name']: np.array([float(row[n]) for n in numbers]).reshape(3, 3)
            for row in _rows(file, 'scene_name', *numbers)
        }
    except ValueError as error:
        raise OSError(f'{file}: expected numbers of cameras ({error}); {AGAIN}') from None


def _rows(file: Path, *columns: str) -> list[dict[str, str]]:
    """Read the rows of a table; OSError: it lacks a column, or is cut off."""
    rows = list(csv.DictReader(read_text(file).splitlines()))
    if any(row.get(column) is None for row in rows for column in columns):
        raise OSError(f'{file}: expected a table with {", ".join(columns)}; {AGAIN}')
    return rows


def _key(depth: Path) -> str:
    """Return scene, camera and frame, such as 'ai_001_001/cam_00/0000'."""
    camera = depth.parent.name.removeprefix('scene_').removesuffix('_geometry_hdf5')
    return f'{depth.parents[2].name}/{camera}/{depth.name.split(".")[1]}'


def _beside(depth: Path, content: str) -> Path:
    return depth.with_name(depth.name.replace('depth_meters', content))


def _image_file(depth: Path) -> Path:
    folder, frame = str(depth.parent).removesuffix('geometry_hdf5'), depth.name.split('.')[1]
    light = Path(f'{folder}final_hdf5', f'frame.{frame}.color.hdf5')
    preview = Path(f'{folder}final_preview', f'frame.{frame}.tonemap.jpg')
    return light if light.is_file() or not preview.is_file() else preview
