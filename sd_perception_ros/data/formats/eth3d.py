"""ETH3D: large images with depth of a laser scanner (Schoeps et al., CVPR 2017)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sd_perception_ros.data.dataset import Arrays, FolderDataset, FrameFiles
from sd_perception_ros.data.files import AGAIN, check_complete, existing, find_files, read_rgb


class Eth3dDataset(FolderDataset):
    """The training scenes of the high-resolution multi-view benchmark, with lens distortion."""

    kind = 'eth3d'
    layout = (
        '<scene>/images/dslr_images/NAME.JPG and <scene>/ground_truth_depth/dslr_images/NAME.JPG'
    )
    signs = ('*/ground_truth_depth/dslr_images',)
    truths = ('depth_m',)

    def find(self) -> list[FrameFiles]:
        """List the frames with depth."""
        depths = find_files(self.folder, '*/ground_truth_depth/dslr_images/*.JPG')
        return [
            FrameFiles(
                f'{depth.parents[2].name}/{depth.stem}', {'image': _image(depth), 'depth_m': depth}
            )
            for depth in depths
        ]

    def read(self, frame: FrameFiles) -> Arrays:
        """Read an image and its depth: float32 metres without a header, infinite: unknown."""
        image = read_rgb(frame.files['image'])
        height, width = image.shape[:2]
        file = existing(frame.files['depth_m'])
        if file.stat().st_size != 4 * height * width:
            raise OSError(
                f'{file}: expected {width} x {height} numbers of 4 bytes, as the image has '
                f'pixels, got {file.stat().st_size} bytes; {AGAIN}'
            )
        depth_m = np.fromfile(file, '<f4').reshape(height, width)
        depth_m[~(np.isfinite(depth_m) & (depth_m > 0))] = np.nan
        return {'image': image, 'depth_m': depth_m}

    def check(self) -> None:
        """Check every image, and the depth files, which are not JPEG despite their name."""
        for frame in self.frames:
            check_complete(frame.files['image'])
            depth = frame.files['depth_m']
            if existing(depth).stat().st_size == 0:
                raise OSError(f'{depth}: expected depth, got an empty file; {AGAIN}')


def _image(depth: Path) -> Path:
    return depth.parents[2] / 'images' / 'dslr_images' / depth.name
