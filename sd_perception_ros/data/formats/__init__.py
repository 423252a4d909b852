"""Formats of data sets. To add one: add a file to this folder and a line to this table."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sd_perception_ros.data.dataset import FolderDataset

# Name of the file: class. Files are imported when used, as the command line needs only the names,
# not torch.
KINDS = {
    'rooms': 'RoomsDataset',
    'folder': 'ImagesDataset',
    'shards': 'ShardsDataset',
    'rosbag': 'RosbagDataset',
    'hypersim': 'HypersimDataset',
    'vkitti2': 'VirtualKitti2Dataset',
    'nyuv2': 'NyuV2Dataset',
    'kitti': 'KittiDataset',
    'scannet': 'ScanNetDataset',
    'eth3d': 'Eth3dDataset',
    'diode': 'DiodeDataset',
    'dis5k': 'Dis5kDataset',
    'p3m10k': 'P3m10kDataset',
    'coco': 'CocoDataset',
}
HELP = (
    'kind:path, kind:path:split, or a path whose kind is recognised; several are mixed, with '
    'weights such as @9 (default 1). Kinds: ' + ', '.join(KINDS)
)


def dataset_class(kind: str) -> type[FolderDataset]:
    """Return the class that reads a kind of data."""
    cls: type[FolderDataset] = getattr(importlib.import_module(f'{__name__}.{kind}'), KINDS[kind])
    return cls
