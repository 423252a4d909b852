"""P3M-10k: mattes of people with blurred faces (Li et al., arXiv 2104.14222)."""

from __future__ import annotations

from sd_perception_ros.data.dataset import Arrays, FolderDataset, FrameFiles
from sd_perception_ros.data.files import find_files, read_alpha, read_rgb

PICTURES = {
    'train': 'train/blurred_image',
    'P3M-500-P': 'validation/P3M-500-P/blurred_image',
    'P3M-500-NP': 'validation/P3M-500-NP/original_image',
}


class P3m10kDataset(FolderDataset):
    """Images with a matte of their person."""

    kind = 'p3m10k'
    layout = 'train/blurred_image/NAME.jpg and train/mask/NAME.png'
    signs = ('train/blurred_image', 'validation/P3M-500-P', 'validation/P3M-500-NP')
    splits = tuple(PICTURES)
    truths = ('matte',)

    def find(self) -> list[FrameFiles]:
        """List the split's images."""
        pictures = self.folder / PICTURES[self.split]
        return [
            FrameFiles(
                file.stem,
                {'image': file, 'matte': pictures.with_name('mask') / f'{file.stem}.png'},
            )
            for file in find_files(pictures, '*.jpg')
        ]

    def read(self, frame: FrameFiles) -> Arrays:
        """Read an image and its matte."""
        return {
            'image': read_rgb(frame.files['image']),
            'matte': read_alpha(frame.files['matte']),
        }
