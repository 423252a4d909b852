"""KITTI depth: streets with accumulated lidar depth (Uhrig et al., arXiv 1708.06500)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sd_perception_ros.data.dataset import Arrays, FolderDataset, FrameFiles
from sd_perception_ros.data.files import find_files, read_levels, read_rgb, read_text

GROUND_TRUTH = 'proj_depth/groundtruth'


class KittiDataset(FolderDataset):
    """
    Images of the raw recordings, with sparse depth of the annotated ones.

    :cvar splits: train and val are folders; another name is a text file in the folder with the
        path of an image at the start of each line, such as the test frames of Eigen.
    """

    kind = 'kitti'
    layout = (
        '{train,val}/<drive>/proj_depth/groundtruth/image_0{2,3}/NNNNNNNNNN.png, and the raw '
        'recordings <date>/<drive>/image_0{2,3}/data/NNNNNNNNNN.png'
    )
    signs = (
        f'*/*_sync/{GROUND_TRUTH}',
        f'data_depth_annotated/*/*_sync/{GROUND_TRUTH}',
    )
    splits = ('train', 'val', '<list>')
    truths = ('depth_m',)

    def find(self) -> list[FrameFiles]:
        """List the frames that have depth."""
        listed = self.folder / f'{self.split.removesuffix(".txt")}.txt'
        if listed.is_file():
            lines = [line.split() for line in read_text(listed).splitlines()]
            frames = [self._listed(words[0]) for words in lines if words]
            return [frame for frame in frames if frame is not None]
        pattern = f'{self.split}/*_sync/{GROUND_TRUTH}/image_0[23]/*.png'
        found = [
            *find_files(self.folder, pattern),
            *find_files(self.folder, f'data_depth_annotated/{pattern}'),
        ]
        return [self._frame(file) for file in sorted(found)]

    def read(self, frame: FrameFiles) -> Arrays:
        """Read an image and its depth: 1/256 metres along the axis, 0: unknown."""
        levels = read_levels(frame.files['depth_m'], np.uint16, '1/256 metres')
        depth_m = (levels / 256).astype(np.float32)
        depth_m[levels == 0] = np.nan
        return {'image': read_rgb(frame.files['image']), 'depth_m': depth_m}

    def _frame(self, depth: Path) -> FrameFiles:
        camera, drive = depth.parent.name, depth.parents[3].name
        image = Path(drive[:10], drive, camera, 'data', depth.name)
        return FrameFiles(
            f'{drive}/{camera}/{depth.stem}',
            {'image': self._raw(image), 'depth_m': depth},
        )

    def _listed(self, image: str) -> FrameFiles | None:
        """Return the frame of a listed image; None without depth, as a few of Eigen's."""
        path = Path(image)
        camera, drive = path.parts[-3], path.parts[-4]
        name = path.with_suffix('.png').name
        below = Path(drive, GROUND_TRUTH, camera, name)
        tops = [
            self.folder / top / part
            for top in ('', 'data_depth_annotated')
            for part in ('train', 'val')
        ]
        depth = next((top / below for top in tops if (top / below).is_file()), None)
        return None if depth is None else self._frame(depth)

    def _raw(self, image: Path) -> Path:
        tops = [self.folder, *(self.folder / name for name in ('raw', 'raw_data', 'kitti_raw'))]
        return next((top / image for top in tops if (top / image).is_file()), tops[0] / image)
