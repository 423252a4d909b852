"""Recordings (rosbag2, MCAP or SQLite) as inputs of `predict`; ROS is not needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
import struct
from typing import Any

from sd_perception_ros.cli.predict.inputs import Frame, IsDone, without_newlines
from sd_perception_ros.compressed_images import is_depth, rgb_from_message
from sd_perception_ros.data.formats.rosbag import (
    header_stamp_ns,
    IMAGES,
    open_recording,
    recording_parts,
)
from sd_perception_ros.image_encodings import BitDepth
from sd_perception_ros.paths import printable

# What rosbags raises while it reads damaged data, besides its own errors.
_DAMAGED = (AssertionError, EOFError, IndexError, KeyError, RuntimeError, struct.error, ValueError)


@dataclass(frozen=True)
class BagCamera:
    """
    One image topic of a recording, read like a video.

    :ivar name: of its results: <recording>/<topic>; frames are numbered from 000000.
    :ivar source: recording and topic.
    :ivar recording: name of the recording's results.
    """

    name: str
    source: str
    bag: Path
    topic: str
    recording: str

    is_live = False

    def count_and_rate(self) -> tuple[int, float]:
        """
        Return the number of messages, and messages per second.

        :raises OSError: the recording cannot be read.
        """
        with closing(open_recording(recording_parts(self.bag))) as reader:
            count = sum(c.msgcount for c in self._connections(reader))
            duration_s = max(reader.duration / 1e9, 1e-3)
        return count, min(max(count / duration_s, 1.0), 1000.0)

    def frames(self, is_done: IsDone) -> Iterator[Frame]:
        """
        Read all images in the order in which they were received.

        A message that cannot be decoded gives a frame with the reason.

        :raises OSError: the recording cannot be read.
        """
        bit_depth, index = BitDepth(), 0
        with closing(open_recording(recording_parts(self.bag))) as reader:
            messages = reader.messages(self._connections(reader))
            while True:
                try:
                    connection, _, data = next(messages)
                except StopIteration:
                    return
                except _damaged() as error:
                    problem = f'{self.source} is damaged after {index} images ({error})'
                    yield Frame(self.name, self.source, problem=without_newlines(problem))
                    return
                yield self._frame(reader, connection, data, index, bit_depth, is_done)
                index += 1

    def _frame(
        self,
        reader: Any,
        connection: Any,
        data: bytes,
        index: int,
        bit_depth: BitDepth,
        is_done: IsDone,
    ) -> Frame:
        name = f'{self.name}/{index:06d}'
        if is_done(name, self.source):
            return Frame(name, self.source)
        try:
            stamp_s = header_stamp_ns(data) / 1e9
            msg = reader.deserialize(data, connection.msgtype)
            rgb = rgb_from_message(msg, bit_depth=bit_depth)
        except _damaged() as error:
            problem = without_newlines(f'{self.source}: image {index}: {error}')
            return Frame(name, self.source, problem=problem)
        return Frame(name, self.source, rgb, stamp_s=stamp_s)

    def _connections(self, reader: Any) -> list[Any]:
        return [c for c in reader.connections if c.topic == self.topic and c.msgtype in IMAGES]


def cameras_of(bag: Path, name: str, topics: Sequence[str]) -> list[BagCamera]:
    """
    List the image topics of a recording.

    :param topics: the ones to use; empty: all in colour, raw where a topic is also compressed.
    :raises OSError: the recording cannot be read, or has none of these topics.
    """
    with closing(open_recording(recording_parts(bag))) as reader:
        images = {c.topic: c for c in reader.connections if c.msgtype in IMAGES and c.msgcount}
        if topics:
            chosen = [topic for topic in topics if topic in images]
        else:
            plain = [t for t in images if t.rpartition('/')[0] not in images]
            chosen = [t for t in plain if not _holds_depth(reader, images[t])]
    if not chosen:
        wanted = ' or '.join(topics) or 'a topic of colour images'
        raise OSError(
            f'{printable(bag)}: expected {wanted} (sensor_msgs/Image or CompressedImage), got '
            f'{", ".join(sorted(images)) or "no images"}; record the images of a camera'
        )
    return [
        BagCamera(f'{name}/{topic.strip("/")}', f'{printable(bag)}:{topic}', bag, topic, name)
        for topic in sorted(chosen)
    ]


def _holds_depth(reader: Any, connection: Any) -> bool:
    try:
        for _, _, data in reader.messages([connection]):
            return is_depth(reader.deserialize(data, connection.msgtype))
    except _damaged():
        pass  # reported for each image
    return False


def _damaged() -> tuple[type[Exception], ...]:
    from rosbags.highlevel import AnyReaderError
    from rosbags.rosbag2 import ReaderError

    return (AnyReaderError, ReaderError, *_DAMAGED)
