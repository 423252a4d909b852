"""DIODE: rooms and outdoor scenes with depth of a laser scanner (Vasiljevic, arXiv 1908.00463)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sd_perception_ros.data.dataset import Arrays, FolderDataset, FrameFiles
from sd_perception_ros.data.files import find_files, read_npy, read_rgb


class DiodeDataset(FolderDataset):
    """Images with depth, where the mask of the authors marks it as valid."""

    kind = 'diode'
    layout = '{train,val}/{indoors,outdoor}/scene_*/scan_*/NAME{.png,_depth.npy,_depth_mask.npy}'
    signs = ('*/indoors/scene_*/scan_*', '*/outdoor/scene_*/scan_*')
    splits = ('train', 'val', 'train/indoors', 'train/outdoor', 'val/indoors', 'val/outdoor')
    truths = ('depth_m',)

    def find(self) -> list[FrameFiles]:
        """List the split's images."""
        below = 'scene_*/scan_*/*.png' if '/' in self.split else '*/scene_*/scan_*/*.png'
        return [_frame(file) for file in find_files(self.folder, f'{self.split}/{below}')]

    def read(self, frame: FrameFiles) -> Arrays:
        """Read an image and its depth, metres; unknown where the mask is 0."""
        depth_m = read_npy(frame.files['depth_m'], 2, 3).astype(np.float32)
        depth_m = depth_m.reshape(depth_m.shape[:2])
        mask = read_npy(frame.files['mask'], 2)
        if mask.shape != depth_m.shape:
            raise ValueError(
                f'{frame.files["mask"]}: expected a mask of the shape of the depth, '
                f'{depth_m.shape}, got {mask.shape}; take both from the same archive'
            )
        depth_m[(mask == 0) | ~(depth_m > 0)] = np.nan
        return {'image': read_rgb(frame.files['image']), 'depth_m': depth_m}


def _frame(image: Path) -> FrameFiles:
    depth, mask = (image.with_name(f'{image.stem}_depth{end}.npy') for end in ('', '_mask'))
    return FrameFiles(image.stem, {'image': image, 'depth_m': depth, 'mask': mask})
