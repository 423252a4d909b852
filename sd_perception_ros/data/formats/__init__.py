"""Every kind of data by its name: add a file here and a line to this table."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sd_perception_ros.data.dataset import FolderDataset

# Name, which is that of the file, and class. A kind is imported when it is used: the command line
# reads the names without torch.
KINDS = {
    'rooms': 'RoomsDataset',
    'folder': 'PicturesDataset',
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
    'kind:path, kind:path:split or a plain path, of which the kind is found out; several are '
    'mixed, @9 behind one of them is its weight (1). Kinds: ' + ', '.join(KINDS)
)


def dataset_class(kind: str) -> type[FolderDataset]:
    """Return the class that reads a kind of data."""
    cls: type[FolderDataset] = getattr(importlib.import_module(f'{__name__}.{kind}'), KINDS[kind])
    return cls
