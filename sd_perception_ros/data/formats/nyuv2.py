"""NYU Depth v2: the 1449 labelled frames of a Kinect (Silberman et al., ECCV 2012)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sd_perception_ros.data.dataset import Arrays, FolderDataset, FrameFiles
from sd_perception_ros.data.files import AGAIN, existing

FILE = 'nyu_depth_v2_labeled.mat'
SPLIT_FILE = 'splits.mat'


class NyuV2Dataset(FolderDataset):
    """
    Images with the measured depth, not the one with filled holes.

    :cvar splits: train and test need splits.mat of the authors, in the folder.
    """

    kind = 'nyuv2'
    layout = f'{FILE} (Matlab v7.3)'
    signs = (FILE,)
    splits = ('all', 'train', 'test')
    truths = ('depth_m',)

    def find(self) -> list[FrameFiles]:
        """List the frames by number; all are in one file."""
        file = self.folder if self.folder.is_file() else self.folder / FILE
        if not file.is_file():
            return []
        with self._open(file) as opened:
            count = len(opened['images'])
        chosen = range(count) if self.split == 'all' else self._numbers(file.with_name(SPLIT_FILE))
        return [FrameFiles(f'{number:04d}', {'image': file}) for number in chosen]

    def read(self, frame: FrameFiles) -> Arrays:
        """Read a frame; Matlab stores columns first."""
        with self._open(frame.files['image']) as opened:
            image = opened['images'][int(frame.key)].transpose(2, 1, 0)
            depth_m = opened['rawDepths'][int(frame.key)].T.astype(np.float32)
        depth_m[~(depth_m > 0)] = np.nan
        return {'image': image, 'depth_m': depth_m}

    def fingerprint(self) -> str:
        """Return a short hash of the data set."""
        return f'{super().fingerprint()[:12]}{len(self):04d}'

    def _open(self, file: Path) -> Any:
        import h5py

        try:
            return h5py.File(existing(file), 'r')
        except OSError as error:
            raise OSError(f'{file}: expected a Matlab v7.3 file ({error}); {AGAIN}') from error

    def _numbers(self, file: Path) -> NDArray[np.int64]:
        from scipy.io import loadmat

        if not file.is_file():
            raise FileNotFoundError(
                f'expected the split of the authors at {file}, found none; download it from the '
                f'page of the set, or take every frame: {self.kind}:{self.folder}'
            )
        numbers: NDArray[np.int64] = loadmat(file)[f'{self.split}Ndxs'].ravel().astype(np.int64)
        return numbers - 1
