"""The parts of the demo, and their recorded messages sorted by frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sd_perception_ros.ros.replay.recorder import INPUT, RecordedMessage
from sd_perception_ros.ros.replay.sources import open_source, PHOTOGRAPHS
from sd_perception_ros.ros.replay.sources import Sequence as RenderedSequence

PHOTO_RATE_HZ = 1.0


@dataclass(frozen=True)
class Part:
    """
    A source that the camera plays once.

    :ivar source: parameter `source` of the camera.
    :ivar names: names of the frames in the order of the source, for file names.
    :ivar truth: folder with the ground truth of the frames, if there is one.
    :ivar picture_every: every n-th frame is written as an image.
    :ivar film: whether the frames make a film.
    """

    title: str
    source: str
    rate_hz: float
    names: Sequence[str]
    truth: Path | None = None
    picture_every: int = 1
    film: bool = False


@dataclass(frozen=True)
class Recording:
    """
    The recorded messages of a part.

    :ivar frames: {index of the frame in the source: {topic: image or values}}, of frames with all
        outputs.
    :ivar answered: number of stamps with all outputs.
    :ivar topics: the recorded outputs.
    """

    part: Part
    arrivals: Sequence[RecordedMessage]
    frames: Mapping[int, Mapping[str, NDArray[np.generic]]]
    answered: int
    topics: Sequence[str]


def rooms(folder: Path, rate_hz: float) -> Part:
    """
    Describe the rendered sequence of a folder.

    :raises ValueError: the folder has none.
    """
    count = len(RenderedSequence(folder))
    names = [f'rooms_{index:04d}' for index in range(count)]
    return Part('rooms', str(folder), rate_hz, names, folder / 'frames', 10, True)


def photos() -> Part:
    """Describe the photographs of the scikit-image package."""
    names = [f'photo_{Path(name).stem}' for name in PHOTOGRAPHS]
    return Part('photos', 'skimage', PHOTO_RATE_HZ, names)


def shortened(folder: Path, into: Path, frames: int) -> Path:
    """Make a sequence of the first frames of another one, by links into its folder."""
    sequence = into / 'sequence'
    (sequence / 'frames').mkdir(parents=True)
    (sequence / 'sequence.json').symlink_to((folder / 'sequence.json').absolute())
    keys = sorted(path.name.split('.')[0] for path in (folder / 'frames').glob('*.image.*'))
    for key in keys[:frames]:
        for path in (folder / 'frames').glob(f'{key}.*'):
            (sequence / 'frames' / path.name).symlink_to(path.absolute())
    return sequence


def answered_stamps(arrivals: Sequence[RecordedMessage], topics: Sequence[str]) -> set[int]:
    """Return the stamps, in ns, with an image and all outputs."""
    wanted = (INPUT, *topics)
    stamps = [{a.stamp_ns for a in arrivals if a.topic == topic} for topic in wanted]
    return set.intersection(*stamps)


def record(part: Part, arrivals: Sequence[RecordedMessage], topics: Sequence[str]) -> Recording:
    """
    Sort messages by frame.

    Messages belong to the image of the same stamp. Images are found in their source by their
    pixels, so that lost frames do no harm.
    """
    source = open_source(part.source)
    index_of = {source.frame(index).rgb.tobytes(): index for index in range(len(source))}
    answered = answered_stamps(arrivals, topics)
    by_stamp: dict[int, dict[str, NDArray[np.generic]]] = {}
    for arrival in arrivals:
        if arrival.values is not None:
            by_stamp.setdefault(arrival.stamp_ns, {})[arrival.topic] = arrival.values
    frames = {}
    for stamp in sorted(answered & by_stamp.keys()):
        picture = by_stamp[stamp].get(INPUT)
        index = None if picture is None else index_of.get(picture.tobytes())
        if index is not None:
            frames[index] = by_stamp[stamp]
    return Recording(part, arrivals, dict(sorted(frames.items())), len(answered), topics)
