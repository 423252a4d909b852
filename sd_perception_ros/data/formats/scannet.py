"""ScanNet: rooms recorded with a depth camera (Dai et al., arXiv 1702.04405)."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from sd_perception_ros.data.dataset import Arrays, FolderDataset, FrameFiles
from sd_perception_ros.data.files import find_files, read_levels, read_rgb, read_text


class ScanNetDataset(FolderDataset):
    """
    Frames exported by the reader of the authors; images are resized to the size of their depth.

    :cvar splits: all, or a text file in the folder, such as scannetv2_train; each line starts
        with a scene or a frame (scene0406_02/color/000300.jpg), as in lists for evaluation.
    """

    kind = 'scannet'
    layout = 'sceneXXXX_XX/{color/N.jpg,depth/N.png}, alone or below scans/'
    signs = ('scene????_??/depth', 'scans/scene????_??/depth', 'scans_test/scene????_??/depth')
    splits = ('all', '<list>')
    truths = ('depth_m',)

    def find(self) -> list[FrameFiles]:
        """List the frames of the chosen scenes."""
        scenes = sorted(
            scene
            for top in ('', 'scans/', 'scans_test/')
            for scene in self.folder.glob(f'{top}scene????_??')
        )
        chosen = {''}
        if self.split != 'all':
            listed = self.folder / f'{self.split.removesuffix(".txt")}.txt'
            if not listed.is_file():
                raise FileNotFoundError(
                    f'expected a list of scenes or frames at {listed}, found none; put it there, '
                    f'or take every scene: {self.kind}:{self.folder}'
                )
            chosen = {_listed(line) for line in read_text(listed).splitlines() if line.strip()}
        frames = []
        for scene in scenes:
            for depth in sorted(
                find_files(scene, 'depth/*.png'), key=lambda file: file.stem.zfill(9)
            ):
                if not chosen.isdisjoint({'', scene.name, f'{scene.name}/{_number(depth.stem)}'}):
                    files = {'image': _color(depth), 'depth_m': depth}
                    frames.append(FrameFiles(f'{scene.name}/{depth.stem}', files))
        return frames

    def read(self, frame: FrameFiles) -> Arrays:
        """Read an image and its depth: millimetres along the axis, 0: unknown."""
        levels = read_levels(frame.files['depth_m'], np.uint16, 'millimetres')
        depth_m = (levels / 1000).astype(np.float32)
        depth_m[levels == 0] = np.nan
        image = read_rgb(frame.files['image'])
        height, width = depth_m.shape
        # Colour has twice the resolution; after export both have the same viewpoint.
        image = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA))
        return {'image': image, 'depth_m': depth_m}


def _listed(line: str) -> str:
    """Return the scene or frame (scene/number) at the start of a line of a list."""
    path = Path(line.split()[0])
    scene = next((part for part in path.parts if part.startswith('scene')), path.name)
    return f'{scene}/{_number(path.stem)}' if path.suffix else scene


def _number(stem: str) -> str:
    return stem.lstrip('0') or '0'


def _color(depth: Path) -> Path:
    color = depth.parents[1] / 'color' / f'{depth.stem}.jpg'
    png = color.with_suffix('.png')
    return png if png.is_file() else color
