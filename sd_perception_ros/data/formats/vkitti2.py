"""Virtual KITTI 2: rendered streets (Cabon et al., arXiv 2001.10773)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sd_perception_ros.data.dataset import Arrays, FolderDataset, FrameFiles
from sd_perception_ros.data.files import find_files, read_levels, read_rgb

# Depth from here on is infinite, as the sky (65535 cm): GenPercept and Marigold exclude it from
# the quantiles of a target.
FAR_CM = 8000


class VirtualKitti2Dataset(FolderDataset):
    """Images and depth; archives unpacked into one folder, or each into a folder of its name."""

    kind = 'vkitti2'
    layout = (
        'SceneXX/<variation>/frames/rgb/Camera_0/rgb_NNNNN.jpg and '
        '.../frames/depth/Camera_0/depth_NNNNN.png'
    )
    signs = ('Scene*/*/frames/rgb', 'vkitti_*_rgb/Scene*/*/frames/rgb')
    truths = ('depth_m',)

    def find(self) -> list[FrameFiles]:
        """List the images of every scene, variation and camera."""
        pattern = 'Scene*/*/frames/rgb/Camera_*/rgb_*.jpg'
        found = [
            *find_files(self.folder, pattern),
            *find_files(self.folder, f'vkitti_*_rgb/{pattern}'),
        ]
        return [self._frame(file) for file in sorted(found)]

    def read(self, frame: FrameFiles) -> Arrays:
        """Read an image and its depth: centimetres along the axis, infinite from 80 m on."""
        levels = read_levels(frame.files['depth_m'], np.uint16, 'centimetres')
        depth_m = (levels / 100).astype(np.float32)
        depth_m[levels == 0] = np.nan
        depth_m[levels >= FAR_CM] = np.inf
        return {'image': read_rgb(frame.files['image']), 'depth_m': depth_m}

    def _frame(self, image: Path) -> FrameFiles:
        parts = list(image.relative_to(self.folder).parts)
        depth = [part.replace('rgb', 'depth') for part in parts]
        depth[-1] = depth[-1].replace('.jpg', '.png')
        scene, variation, _, _, camera, name = parts[-6:]
        key = f'{scene}/{variation}/{camera}/{name.removesuffix(".jpg")}'
        return FrameFiles(key, {'image': image, 'depth_m': self.folder.joinpath(*depth)})
