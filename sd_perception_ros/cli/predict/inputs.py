"""Inputs of `predict`: what the user has named, as frames with names for their results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
import glob
import os
from pathlib import Path
import re
import time
from typing import NamedTuple

import cv2
import numpy as np

from sd_perception_ros.data.files import read_rgb
from sd_perception_ros.git_lfs import refuse_lfs_pointer
from sd_perception_ros.paths import printable
from sd_perception_ros.ros.options import MAX_RATE_HZ, MIN_RATE_HZ
from sd_perception_ros.ros.replay.sources import IMAGE_SUFFIXES
from sd_perception_ros.types import Camera, UInt8


@dataclass(frozen=True)
class Frame:
    """
    One picture, or why there is none.

    :ivar name: path of its results below the folder of each output, without a suffix.
    :ivar source: the file that it comes from.
    :ivar rgb: (H, W, 3) uint8; None: not read.
    :ivar problem: why it cannot be read; empty without `rgb`: it is done already.
    :ivar stamp_s: time of the frame in its source, seconds.
    :ivar camera: intrinsics; None if they are unknown.
    """

    name: str
    source: str
    rgb: UInt8 | None = None
    problem: str = ''
    stamp_s: float = 0.0
    camera: Camera | None = None


IsDone = Callable[[str, str], bool]  # of a frame's name and source
# Found in folders; other files are videos if the user names them.
VIDEO_SUFFIXES = ('.mp4', '.mov', '.m4v', '.avi', '.mkv', '.webm', '.mpg', '.mpeg', '.wmv')
BAG_SUFFIXES = ('.mcap', '.db3')
_WEBCAM = re.compile(r'(?:/dev/video)?(\d{1,3})')
# The number of frames in a header is sometimes an estimate: fewer are an error beyond this share.
_MAX_MISSING = 0.02
_RATE_HZ = 25.0  # of a video that has no rate


@dataclass(frozen=True)
class Pictures:
    """
    Picture files.

    :ivar files: {name of a frame: file}.
    """

    files: dict[str, Path] = field(default_factory=dict)

    def __len__(self) -> int:
        """Return the number of files."""
        return len(self.files)

    def frames(self, is_done: IsDone) -> Iterator[Frame]:
        """Read the files that are not done, upright as viewers show them (EXIF)."""
        for name, file in self.files.items():
            source = printable(file.absolute())
            if is_done(name, source):
                yield Frame(name, source)
                continue
            try:
                yield Frame(name, source, read_rgb(file, turned=True))
            except (OSError, ValueError) as error:
                yield Frame(name, source, problem=without_newlines(error))


@dataclass(frozen=True)
class Video:
    """
    A video file or a webcam.

    :ivar name: of its results; frames are <name>/000000, <name>/000001, ...
    :ivar source: the file.
    :ivar number: of the webcam; None: a file.
    """

    name: str
    source: str
    number: int | None = None

    @property
    def is_live(self) -> bool:
        """Whether it is a webcam, which ends only when the user says so."""
        return self.number is not None

    def count_and_rate(self) -> tuple[int, float]:
        """
        Return the number of frames in the header, 0 for a webcam, and frames per second.

        :raises ValueError: it cannot be read as a video.
        """
        capture = self._open()
        rate_hz = float(capture.get(cv2.CAP_PROP_FPS))
        count = 0 if self.is_live else max(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0)
        capture.release()
        return count, rate_hz if MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ else _RATE_HZ

    def frames(self, is_done: IsDone) -> Iterator[Frame]:
        """
        Read all frames, upright as viewers show them.

        :raises ValueError: it cannot be read as a video.
        """
        capture = self._open()
        count, rate_hz = self.count_and_rate() if not self.is_live else (0, 0.0)
        start_s, index = time.monotonic(), 0
        while True:
            name = f'{self.name}/{index:06d}'
            if is_done(name, self.source):
                if not capture.grab():
                    break
                yield Frame(name, self.source)
            else:
                success, bgr = capture.read()
                if not success:
                    break
                stamp_s = time.monotonic() - start_s if self.is_live else index / rate_hz
                rgb = np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)
                yield Frame(name, self.source, rgb, stamp_s=stamp_s)
            index += 1
        capture.release()
        if self.is_live:
            problem = f'{self.source} gives no more pictures; is it still connected?'
        elif index == 0:
            problem = (
                f'{self.source} has no frame that OpenCV can decode; convert it, for example '
                f'with ffmpeg -i {Path(self.source).name} new.mp4'
            )
        elif count - index > _MAX_MISSING * count:
            problem = (
                f'{self.source} ends after {index} of {count} frames: it is damaged or '
                'truncated; copy it again'
            )
        else:
            return
        yield Frame(self.name, self.source, problem=problem)

    def _open(self) -> cv2.VideoCapture:
        # Quiet: the errors are ours.
        os.environ.setdefault('OPENCV_FFMPEG_LOGLEVEL', '-8')
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
        if self.number is not None:
            capture = cv2.VideoCapture(self.number, cv2.CAP_V4L2)
            if not capture.isOpened():
                raise ValueError(
                    f'no webcam at {self.source}: connect it, see v4l2-ctl --list-devices, and '
                    'join the group video'
                )
            return capture
        if not os.path.isfile(self.source):  # bytes that are not UTF-8: OpenCV would crash
            raise ValueError(f'{self.source}: expected a file name in UTF-8; rename it')
        refuse_lfs_pointer(Path(self.source))
        capture = cv2.VideoCapture(self.source, cv2.CAP_FFMPEG)
        if not capture.isOpened():
            raise ValueError(
                f'{self.source}: expected a picture or a video, got a file that OpenCV cannot '
                f'read; convert it, for example with ffmpeg -i {Path(self.source).name} new.mp4'
            )
        return capture


class Inputs(NamedTuple):
    """
    All inputs of a run.

    :ivar bags: {name: recording}.
    :ivar problems: a line for each input that is none.
    """

    pictures: Pictures
    videos: list[Video]
    bags: dict[str, Path]
    problems: list[str]


def find_inputs(words: Sequence[str], out: Path) -> Inputs:
    """
    Find the pictures, videos and recordings of all inputs.

    :param words: files, folders, patterns and webcams, as the user wrote them.
    :param out: folder of the results, which are no inputs.
    """
    found: dict[Path, str] = {}
    webcams: dict[str, Video] = {}
    problems = []
    for word in words:
        if (device := _WEBCAM.fullmatch(word)) and not os.path.isfile(word):
            number = int(device[1])
            webcams[word] = Video(f'webcam{number}', f'/dev/video{number}', number)
            continue
        try:
            named = dict(_files_of(word, out))
        except (OSError, ValueError) as error:
            problems.append(without_newlines(error))
            continue
        for file, name in named.items():
            found.setdefault(file.absolute(), name)
    files = dict(zip(_unique(found), found, strict=True))
    pictures = {n: file for n, file in files.items() if file.suffix.lower() in IMAGE_SUFFIXES}
    bags = {n: f for n, f in files.items() if f.is_dir() or f.suffix.lower() in BAG_SUFFIXES}
    others = files.keys() - pictures.keys() - bags.keys()
    videos = [Video(n, printable(file)) for n, file in files.items() if n in others]
    return Inputs(Pictures(pictures), [*videos, *webcams.values()], bags, problems)


def _files_of(word: str, out: Path) -> Iterator[tuple[Path, str]]:
    """
    Yield the pictures, videos and recordings of an input and their names.

    A file that the user names is a video if it has not the suffix of a picture.

    :raises OSError: there is none.
    """
    # os.path and not pathlib, which raises for names that are too long.
    if os.path.isdir(word):
        folder, suffixes = Path(word), (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES, *BAG_SUFFIXES)
        found = (file for file in walk(folder, out) if file.suffix.lower() in suffixes)
        files = list(dict.fromkeys(_bag_of(file) for file in found))
        if not files:
            raise FileNotFoundError(
                f'{printable(word)}: expected pictures, videos or recordings '
                f'({", ".join(suffixes)}) in this folder or below, found none'
            )
        for file in files:
            inside = file.relative_to(folder)
            is_all = file == folder  # the folder is one recording
            yield file, folder.absolute().name if is_all else str(inside.with_suffix(''))
    elif os.path.isfile(word):
        file = _bag_of(Path(word))
        yield file, (file.absolute().name if file.is_dir() else file.stem)
    else:
        matching = sorted(glob.glob(word, recursive=True)) if glob.has_magic(word) else []
        if not matching:
            raise FileNotFoundError(
                f'{printable(word)}: expected a picture, a video, a recording, a folder or a '
                f'pattern of files, found nothing at {printable(os.path.abspath(word))}'
            )
        for match in matching:
            yield from _files_of(match, out)


def _bag_of(file: Path) -> Path:
    """Return the folder of a recording for one of its files, and other files as they are."""
    is_part = file.suffix.lower() in BAG_SUFFIXES and (file.parent / 'metadata.yaml').is_file()
    return file.parent if is_part else file


def walk(folder: Path, out: Path) -> Iterator[Path]:
    """Yield all files below a folder in order, except hidden ones and those below `out`."""
    for place, folders, files in os.walk(folder, followlinks=True):
        inside = Path(place)
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith('.') and (inside / name).absolute() != out.absolute()
        )
        yield from (inside / name for name in sorted(files) if not name.startswith('.'))


def _unique(files: dict[Path, str]) -> Iterable[str]:
    """Return a name for each file: its own, with suffix or number where another has the same."""
    wanted = [printable(name) for name in files.values()]
    counts = Counter(wanted)
    with_suffix = [
        name if counts[name] == 1 else name + file.suffix
        for name, file in zip(wanted, files, strict=True)
    ]
    used: set[str] = set()
    for name in with_suffix:
        unique, number = name, 1
        while unique in used:
            number += 1
            unique = f'{name}_{number}'
        used.add(unique)
        yield unique


def without_newlines(text: object) -> str:
    """Return a text or an error in one line, as valid UTF-8."""
    return printable(' '.join(str(text).split()))
