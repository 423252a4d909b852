"""WebDataset shards: tar files for sequential reading, written from any data set."""

from __future__ import annotations

from collections.abc import Iterator
import hashlib
import io
import json
from pathlib import Path
import tarfile
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sd_perception_ros.data.dataset import Arrays, Dataset, FolderDataset, FrameFiles
from sd_perception_ros.data.files import AGAIN, array_of, existing, find_files, read_json
from sd_perception_ros.safe_save import write_text

ABOUT = 'dataset.json'
BEGUN = '.shards_begun'  # marks an incomplete set: its tar files may be replaced
# Values that need fewer bits than float32: unit vectors, alpha, class ids.
_DTYPES: dict[str, type[np.generic]] = {
    'normals': np.float16,
    'foreground': np.float16,
    'matte': np.float16,
    'labels': np.uint8,
}


class _Member(NamedTuple):
    file: Path
    offset: int
    size: int


class ShardsDataset(FolderDataset):
    """
    Frames `<key>.image.png` and `<key>.<truth>.npy` within NNNNNN.tar files.

    Frames are read in any order, by their offsets in the tar files, so that a training from
    shards is equal to one from the original files. The files of a frame are adjacent.
    """

    kind = 'shards'
    layout = 'NNNNNN.tar files with <key>.image.png, and dataset.json'
    signs = ('*.tar',)

    def find(self) -> list[FrameFiles]:
        """Read the headers of all tar files, not the contents."""
        file = self.folder / ABOUT
        if not file.is_file():
            return []
        about = read_json(file)
        if not isinstance(about, dict) or not {'truths', 'classes', 'frames'} <= about.keys():
            raise OSError(f'{file}: expected truths, classes and frames; {AGAIN}')
        self.truths = tuple(about['truths'])
        self.classes = tuple(about['classes'])
        self._members_of: dict[str, dict[str, _Member]] = {}
        for shard in find_files(self.folder, '*.tar'):
            for name, member in _members(shard):
                key, _, rest = name.partition('.')
                self._members_of.setdefault(key, {})[rest.rpartition('.')[0]] = member
        if len(self._members_of) != about['frames']:
            raise OSError(
                f'{self.folder}: expected {about["frames"]} frames in its tar files, as {ABOUT} '
                f'says, got {len(self._members_of)}; {AGAIN}'
            )
        return [
            FrameFiles(key, {'image': p['image'].file})
            for key, p in sorted(self._members_of.items())
        ]

    def read(self, frame: FrameFiles) -> Arrays:
        """Read the members of a frame."""
        arrays: dict[str, NDArray[Any]] = {}
        for name, member in self._members_of[frame.key].items():
            with member.file.open('rb') as opened:
                opened.seek(member.offset)
                data = opened.read(member.size)
            if name == 'image':
                pixels: Any = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
                arrays[name] = np.ascontiguousarray(pixels[..., ::-1])
            else:
                arrays[name] = array_of(data)
        return arrays

    def fingerprint(self) -> str:
        """Return a short hash of the data set."""
        sizes = [
            f'{frame.key} {self._members_of[frame.key]["image"].size}' for frame in self.frames
        ]
        return hashlib.sha256('\n'.join(sizes).encode()).hexdigest()[:16]


def write_shards(dataset: Dataset, folder: Path, frames_each: int) -> Iterator[int]:
    """
    Write every frame of a data set; yields the number of frames done.

    :param folder: readable as `shards:folder`; dataset.json, which has the names of the ground
        truth, is written last, so that an incomplete set is not read.
    :param frames_each: frames per tar file.
    :raises OSError: the folder holds shards or other tar files, or cannot be written.
    """
    from webdataset import ShardWriter

    folder.mkdir(parents=True, exist_ok=True)
    if (folder / ABOUT).exists():
        raise OSError(f'{folder} holds shards; choose another folder')
    begun = folder / BEGUN
    if not begun.exists() and (tars := sorted(folder.glob('*.tar'))):
        raise OSError(f'{folder} holds {tars[0].name}, which is not ours; choose another folder')
    begun.touch()
    for file in folder.glob(f'{6 * "[0-9]"}.tar'):
        file.unlink()  # of an interrupted run
    names: set[str] = set()
    pattern = str(folder / '%06d.tar').replace('%', '%%', str(folder).count('%'))
    with ShardWriter(pattern, maxcount=frames_each, verbose=0) as writer:
        for index in range(len(dataset)):
            sample = dataset[index]
            names |= sample.keys()
            members = {f'{n}.npy': _bytes(n, v) for n, v in sample.items() if n != 'image'}
            members['image.png'] = _png(sample['image'])
            writer.write({'__key__': f'{index:08d}', **members})
            yield index + 1
    about = {
        'source': dataset.name,
        'fingerprint': dataset.fingerprint(),
        'frames': len(dataset),
        'truths': list(dataset.truths),
        'classes': list(dataset.classes),
    }
    write_text(folder / ABOUT, json.dumps(about, indent=2) + '\n')
    begun.unlink()


def _members(shard: Path) -> Iterator[tuple[str, _Member]]:
    try:
        with tarfile.open(existing(shard), 'r:') as opened:
            for member in opened:
                yield member.name, _Member(shard, member.offset_data, member.size)
    except tarfile.TarError as error:
        raise OSError(f'{shard}: expected a complete tar file ({error}); {AGAIN}') from error


def _bytes(name: str, value: Tensor) -> bytes:
    array = value[0].numpy()
    if name != 'joints':
        array = array.transpose(1, 2, 0)
        array = array if name == 'normals' else array[..., 0]
    stream = io.BytesIO()
    np.save(stream, array.astype(_DTYPES.get(name, np.float32)))
    return stream.getvalue()


def _png(image: Tensor) -> bytes:
    levels = ((image[0] + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    _, data = cv2.imencode('.png', np.ascontiguousarray(levels[..., ::-1]))
    return data.tobytes()
