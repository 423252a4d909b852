"""A contact sheet of frames: a row for each, with the image and all ground truth."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sd_perception_ros.cli.contact_sheet import grid, Tile
from sd_perception_ros.data.windows import resize_sample
from sd_perception_ros.drawing import draw_people, true_poses
from sd_perception_ros.tasks.depth import Depth
from sd_perception_ros.tasks.normals import Normals
from sd_perception_ros.types import Sample, UInt8

HEIGHT_PX = 192  # size of an image on the sheet
MOST_WIDE_PX = 480


def contact_sheet(rows: Sequence[tuple[str, Sample]]) -> UInt8:
    """
    Draw a row for each frame: the image, then each ground truth with its name.

    :param rows: name and sample, a batch of one, of any size.
    :returns: (H, W, 3) uint8 RGB.
    """
    return grid([_row(key, _small(sample)) for key, sample in rows])


def _small(sample: Sample) -> Sample:
    height, width = sample['image'].shape[-2:]
    scale = min(HEIGHT_PX / height, MOST_WIDE_PX / width)
    return resize_sample(sample, max(round(height * scale), 1), max(round(width * scale), 1))


def _row(key: str, sample: Sample) -> list[Tile]:
    painters: dict[str, Callable[[Sample], UInt8]] = {
        'image': _picture,
        'depth_m': _depth,
        'normals': _normals,
        'labels': _labels,
        'foreground': lambda sample: _share(sample['foreground']),
        'matte': lambda sample: _share(sample['matte']),
        'joints': _joints,
    }
    return [
        (key if name == 'image' else name, paint(sample))
        for name, paint in painters.items()
        if name in sample
    ]


def _picture(sample: Sample) -> UInt8:
    levels = ((sample['image'][0] + 1) * 127.5).round().clamp(0, 255).byte()
    return np.ascontiguousarray(levels.permute(1, 2, 0).numpy())


def _depth(sample: Sample) -> UInt8:
    """Draw near warm, far cold; the ends are the 2 % quantiles, the sky is coldest."""
    task = Depth()
    target, known = task.target(sample)
    return _with_unknown(task.colorize(task.decode(target[0])), known)


def _normals(sample: Sample) -> UInt8:
    task = Normals()
    target, known = task.target(sample)
    return _with_unknown(task.colorize(task.decode(target[0])), known)


def _labels(sample: Sample) -> UInt8:
    """Give each class a colour far from those of its neighbours."""
    labels = sample['labels'][0, 0].numpy().astype(np.uint8)
    ids = np.arange(256)
    hues = (ids * 111) % 180  # about the golden angle, in OpenCV's hue range of 180
    table = np.stack([hues, np.full(256, 170), np.where(ids % 2, 150, 230)], -1).astype(np.uint8)
    colors = cv2.cvtColor(table[None], cv2.COLOR_HSV2RGB)[0]
    return _with_unknown(colors[labels], sample['labels'] != 255)


def _share(share: Tensor) -> UInt8:
    levels = (share[0, 0].nan_to_num(0.0) * 255).round().byte().numpy()
    return _with_unknown(np.repeat(levels[..., None], 3, 2), ~share.isnan())


def _joints(sample: Sample) -> UInt8:
    picture = _picture(sample) // 2  # so that people stand out
    height, width = picture.shape[:2]
    return draw_people(picture, true_poses(sample['joints'][0].numpy(), height, width))


def _with_unknown(painted: NDArray[np.uint8], known: Tensor) -> UInt8:
    """Draw unknown pixels as a checkerboard."""
    height, width = painted.shape[:2]
    squares = (np.arange(height)[:, None] // 4 + np.arange(width) // 4) % 2
    board = np.where(squares, 110, 50).astype(np.uint8)[..., None]
    return np.where(known[0, 0].numpy()[..., None], painted, board)
