"""Open data by kind:path:split@weight."""

from __future__ import annotations

from collections.abc import Sequence
import difflib
from pathlib import Path
import re

from sd_perception_ros.data.dataset import Dataset, FolderDataset
from sd_perception_ros.data.formats import dataset_class, KINDS
from sd_perception_ros.data.mixture import Mixture, ResizedDataset
from sd_perception_ros.paths import expand_home


def open_data(
    words: Sequence[str],
    limit: int = 0,
    keep: bool = False,
    size: tuple[int, int] | None = None,
    measuring: bool = False,
) -> Dataset:
    """
    Open a data set, or a mixture of several.

    :param words: such as 'data/rooms/train' or 'hypersim:data/hypersim:train@9'.
    :param limit: use only the first frames of each; 0 uses all.
    :param keep: cache decoded frames in memory, if they are small.
    :param size: (height, width) to which every image is resized and cropped; None: unchanged.
    :param measuring: include frames and ground truth that only evaluation uses.
    :raises OSError: a folder is not of its kind, or a file is missing or truncated.
    :raises ValueError: an unknown kind or split, or an invalid weight.
    """
    sets, weights = [], []
    for word in map(_expand_home, words):
        text, weight = _weight(word)
        kind, folder, split = _split_word(text)
        sets.append(kind(folder, limit, keep, split, measuring))
        weights.append(weight)
    dataset = sets[0] if len(sets) == 1 else Mixture(sets, weights)
    return ResizedDataset(dataset, size) if size else dataset


def _expand_home(word: str) -> str:
    """Replace `~` at the start of the path; a shell does it only at the start of a word."""
    kind, colon, path = word.partition(':')
    if colon and kind in KINDS:
        return f'{kind}:{expand_home(path)}'
    return expand_home(word)


def _weight(word: str) -> tuple[str, float]:
    text, at, tail = word.rpartition('@')
    if not at or not re.fullmatch(r'[-+]?[0-9.]+(e[-+]?\d+)?', tail):
        return word, 1.0
    if Path(word).exists() or Path(word.partition(':')[2] or word).exists():
        return word, 1.0  # a folder named set@2
    weight = float(tail)
    if not 0 < weight < float('inf'):
        raise ValueError(f"expected a weight above 0 after the @ of '{word}', got {tail}")
    return text, weight


def _split_word(text: str) -> tuple[type[FolderDataset], Path, str]:
    name, colon, rest = text.partition(':')
    if not colon or Path(text).exists():
        return _recognized(Path(text)), Path(text), ''
    if name not in KINDS:
        close = difflib.get_close_matches(name, KINDS, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f'choose one of: {", ".join(KINDS)}'
        raise ValueError(f"unknown kind of data '{name}' in '{text}'; {hint}")
    kind = dataset_class(name)
    path, colon, split = rest.rpartition(':')
    if not colon or Path(rest).exists():
        return kind, Path(rest), ''
    if split not in kind.splits and not any(one.startswith('<') for one in kind.splits):
        raise ValueError(
            f"{name} has no split '{split}' ('{text}'); choose one of: {', '.join(kind.splits)}"
        )
    return kind, Path(path), split


def _recognized(path: Path) -> type[FolderDataset]:
    """Return the kind of a folder or file, by its `signs`; rooms if there is none."""
    for kind in map(dataset_class, KINDS):
        if path.is_dir() and any(next(path.glob(sign), None) for sign in kind.signs):
            return kind
        if path.is_file() and any(path.match(sign) for sign in kind.signs):
            return kind
    return dataset_class('rooms')
