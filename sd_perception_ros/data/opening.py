"""Every kind of data by its name, and the one way to open them: kind:path:split@weight."""

from __future__ import annotations

from collections.abc import Sequence
import difflib
from pathlib import Path
import re

from sd_perception_ros.data.dataset import Dataset, FolderDataset
from sd_perception_ros.data.formats.coco import CocoDataset
from sd_perception_ros.data.formats.diode import DiodeDataset
from sd_perception_ros.data.formats.dis5k import Dis5kDataset
from sd_perception_ros.data.formats.eth3d import Eth3dDataset
from sd_perception_ros.data.formats.folder import PicturesDataset
from sd_perception_ros.data.formats.hypersim import HypersimDataset
from sd_perception_ros.data.formats.kitti import KittiDataset
from sd_perception_ros.data.formats.nyuv2 import NyuV2Dataset
from sd_perception_ros.data.formats.p3m10k import P3m10kDataset
from sd_perception_ros.data.formats.rooms import RoomsDataset
from sd_perception_ros.data.formats.rosbag import RosbagDataset
from sd_perception_ros.data.formats.scannet import ScanNetDataset
from sd_perception_ros.data.formats.shards import ShardsDataset
from sd_perception_ros.data.formats.vkitti2 import VirtualKitti2Dataset
from sd_perception_ros.data.mixture import Framed, Mixture

KINDS: dict[str, type[FolderDataset]] = {
    kind.kind: kind
    for kind in (
        RoomsDataset,
        PicturesDataset,
        ShardsDataset,
        RosbagDataset,
        HypersimDataset,
        VirtualKitti2Dataset,
        NyuV2Dataset,
        KittiDataset,
        ScanNetDataset,
        Eth3dDataset,
        DiodeDataset,
        Dis5kDataset,
        P3m10kDataset,
        CocoDataset,
    )
}
HELP = (
    'kind:path, kind:path:split or a plain path, of which the kind is found out; several are '
    'mixed, @9 behind one of them is its weight (1). Kinds: ' + ', '.join(KINDS)
)


def open_data(
    words: Sequence[str],
    limit: int = 0,
    keep: bool = False,
    size: tuple[int, int] | None = None,
    measuring: bool = False,
) -> Dataset:
    """
    Open one set, or a mixture of several.

    :param words: such as 'data/rooms/train' or 'hypersim:data/hypersim:train@9'.
    :param limit: use only the first frames of each; 0 uses all.
    :param keep: keep decoded frames in memory, where they are small.
    :param size: (height, width) that every picture is brought to; None leaves them as they are.
    :param measuring: also frames that teach nothing, and what only measuring asks for.
    :raises OSError: a folder is not of its kind, or a file is missing or cut off.
    :raises ValueError: an unknown kind or split, or a weight that is none.
    """
    sets, weights = [], []
    for word in words:
        text, weight = _weight(word)
        kind, folder, split = _place(text)
        sets.append(kind(folder, limit, keep, split, measuring))
        weights.append(weight)
    dataset = sets[0] if len(sets) == 1 else Mixture(sets, weights)
    return Framed(dataset, size) if size else dataset


def _weight(word: str) -> tuple[str, float]:
    text, at, tail = word.rpartition('@')
    if not at or not re.fullmatch(r'[-+]?[0-9.]+(e[-+]?\d+)?', tail):
        return word, 1.0
    weight = float(tail)
    if not 0 < weight < float('inf'):
        raise ValueError(f"expected a weight above 0 behind the @ of '{word}', got {tail}")
    return text, weight


def _place(text: str) -> tuple[type[FolderDataset], Path, str]:
    name, colon, rest = text.partition(':')
    if not colon or Path(text).exists():
        return _recognized(Path(text)), Path(text), ''
    if name not in KINDS:
        close = difflib.get_close_matches(name, KINDS, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f'choose one of: {", ".join(KINDS)}'
        raise ValueError(f"unknown kind of data '{name}' in '{text}'; {hint}")
    kind = KINDS[name]
    path, colon, split = rest.rpartition(':')
    if not colon or Path(rest).exists():
        return kind, Path(rest), ''
    if split not in kind.splits and not any(one.startswith('<') for one in kind.splits):
        raise ValueError(
            f"{name} has no split '{split}' ('{text}'); choose one of: {', '.join(kind.splits)}"
        )
    return kind, Path(path), split


def _recognized(path: Path) -> type[FolderDataset]:
    """Return the kind of which a folder, or a file, has a sign; rooms where it has none."""
    for kind in KINDS.values():
        if path.is_dir() and any(next(path.glob(sign), None) for sign in kind.signs):
            return kind
        if path.is_file() and any(path.match(sign) for sign in kind.signs):
            return kind
    return RoomsDataset
