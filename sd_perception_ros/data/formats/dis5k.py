"""DIS5K: single objects with exact masks (Qin et al., arXiv 2203.03041)."""

from __future__ import annotations

from sd_perception_ros.data.dataset import Arrays, FolderDataset, FrameFiles
from sd_perception_ros.data.files import find_files, read_alpha, read_rgb


class Dis5kDataset(FolderDataset):
    """Images whose main object is the foreground."""

    kind = 'dis5k'
    layout = 'DIS-TR/im/NAME.jpg and DIS-TR/gt/NAME.png'
    signs = ('DIS-*/im',)
    splits = ('DIS-TR', 'DIS-VD', 'DIS-TE1', 'DIS-TE2', 'DIS-TE3', 'DIS-TE4')
    truths = ('foreground',)

    def find(self) -> list[FrameFiles]:
        """List the split's images."""
        top = self.folder / self.split
        return [
            FrameFiles(file.stem, {'image': file, 'foreground': top / 'gt' / f'{file.stem}.png'})
            for file in find_files(top, 'im/*.jpg')
        ]

    def read(self, frame: FrameFiles) -> Arrays:
        """Read an image and its mask."""
        return {
            'image': read_rgb(frame.files['image']),
            'foreground': read_alpha(frame.files['foreground']),
        }
