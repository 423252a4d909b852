"""P3M-10k: people cut out softly, their faces blurred (Li et al., arXiv 2104.14222)."""

from __future__ import annotations

from sd_perception_ros.data.dataset import Arrays, FolderDataset, FrameFiles
from sd_perception_ros.data.files import find_files, read_rgb, read_shares

PICTURES = {
    'train': 'train/blurred_image',
    'P3M-500-P': 'validation/P3M-500-P/blurred_image',
    'P3M-500-NP': 'validation/P3M-500-NP/original_image',
}


class P3m10kDataset(FolderDataset):
    """Pictures with a matte of the person in them."""

    kind = 'p3m10k'
    layout = 'train/blurred_image/NAME.jpg and train/mask/NAME.png'
    signs = ('train/blurred_image', 'validation/P3M-500-P', 'validation/P3M-500-NP')
    splits = tuple(PICTURES)
    truths = ('matte',)

    def find(self) -> list[FrameFiles]:
        """List the split's pictures."""
        pictures = self.folder / PICTURES[self.split]
        return [
            FrameFiles(
                file.stem,
                {'image': file, 'matte': pictures.with_name('mask') / f'{file.stem}.png'},
            )
            for file in find_files(pictures, '*.jpg')
        ]

    def read(self, frame: FrameFiles) -> Arrays:
        """Read a picture and its matte."""
        return {
            'image': read_rgb(frame.files['image']),
            'matte': read_shares(frame.files['matte']),
        }
