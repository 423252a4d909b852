"""A rosbag2 recording (MCAP or SQLite) of an RGB-D camera."""

from __future__ import annotations

from bisect import bisect_left
import hashlib
from pathlib import Path
import struct
from threading import Lock
from typing import Any

import numpy as np
import yaml

from sd_perception_ros.compressed_images import depth_from_message, is_depth, rgb_from_message
from sd_perception_ros.data.dataset import Arrays, FolderDataset, FrameFiles
from sd_perception_ros.data.files import existing, find_files, read_text

SLOP_NS = 20_000_000  # maximum difference of the stamps of an image and its depth
IMAGES = ('sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage')
CAMERA = 'sensor_msgs/msg/CameraInfo'


class DamagedRecordingError(ValueError):
    """A recording cannot be read to its end."""


class RosbagDataset(FolderDataset):
    """
    Images with depth of the same time, from a folder with metadata.yaml or from a single file.

    The depth must be registered to the image: same viewpoint, same pixels.

    :cvar splits: for recordings of several cameras, the topics of image and depth, with a comma.
    """

    kind = 'rosbag'
    layout = 'a recording (.mcap, .db3) of an image topic and a topic of registered depth'
    signs = ('metadata.yaml', '*.mcap', '*.db3')
    splits = ('', '<image topic>,<depth topic>')
    truths = ('depth_m',)

    def find(self) -> list[FrameFiles]:
        """Read the stamps of all messages once."""
        bag = self.folder
        if bag.is_file() and (bag.parent / 'metadata.yaml').is_file():
            bag = bag.parent
        self._lock = Lock()
        self._reader = open_recording(recording_parts(bag))
        color, depth = self._topics()
        self._check_registered(color, depth)
        self._connections = {'image': color, 'depth_m': depth}
        colors, depths = self._stamps(color), self._stamps(depth)
        self._received: dict[str, tuple[int, int]] = {}
        for stamp, received in depths:
            nearest = _nearest(colors, stamp)
            if nearest is not None:
                self._received[str(stamp)] = (nearest, received)
        if not self._received:
            raise OSError(
                f'{bag}: expected images on {color[0].topic} and depth on {depth[0].topic} '
                f'within {SLOP_NS // 1_000_000} ms of each other, found {len(colors)} and '
                f'{len(depths)} without such pairs; record both topics of one camera'
            )
        return [FrameFiles(stamp, {'image': bag}) for stamp in self._received]

    def read(self, frame: FrameFiles) -> Arrays:
        """Read an image and its depth."""
        color, depth = (
            self._message(self._connections[name], received)
            for name, received in zip(('image', 'depth_m'), self._received[frame.key], strict=True)
        )
        depth_m = depth_from_message(depth)
        depth_m[~(depth_m > 0)] = np.nan  # -Inf is too near to measure (REP 117): unknown
        return {'image': rgb_from_message(color), 'depth_m': depth_m}

    def fingerprint(self) -> str:
        """Return a short hash of the stamps of all images."""
        words = '\n'.join(frame.key for frame in self.frames)
        return hashlib.sha256(words.encode()).hexdigest()[:16]

    def _topics(self) -> tuple[list[Any], list[Any]]:
        """Return the connections of the image topic and of the depth topic."""
        topics: dict[str, list[Any]] = {}
        for connection in self._reader.connections:
            if connection.msgtype in IMAGES and connection.msgcount:
                topics.setdefault(connection.topic, []).append(connection)
        if self.split:
            wanted = self.split.split(',')
            if len(wanted) != 2 or not set(wanted) <= topics.keys():
                raise ValueError(
                    f"expected two topics as 'image,depth', got '{self.split}'; {self.folder} "
                    f'has: {", ".join(sorted(topics)) or "no images"}'
                )
            return topics[wanted[0]], topics[wanted[1]]
        # Prefer the raw topic if it was recorded raw and compressed.
        plain = {t: c for t, c in topics.items() if t.rpartition('/')[0] not in topics}
        depths = {t: c for t, c in plain.items() if is_depth(self._message(c))}
        colors = {t: c for t, c in plain.items() if t not in depths}
        if len(depths) != 1 or len(colors) != 1:
            raise ValueError(
                f'{self.folder}: expected one image topic and one depth topic, got '
                f'[{", ".join(sorted(colors))}] and [{", ".join(sorted(depths))}]; choose two: '
                f'{self.kind}:{self.folder}:<image>,<depth>'
            )
        return next(iter(colors.values())), next(iter(depths.values()))

    def _check_registered(self, color: list[Any], depth: list[Any]) -> None:
        cameras = [self._camera(connections[0].topic) for connections in (color, depth)]
        if None in cameras:
            return  # equal sizes are checked with every frame
        (k, *size), (other, *other_size) = ([c.k, c.width, c.height] for c in cameras)
        if size != other_size or not np.allclose(k, other, rtol=0.01, atol=1.0):
            raise ValueError(
                f'{self.folder}: expected depth registered to its image, got other camera '
                f'parameters on {depth[0].topic} than on {color[0].topic}; record the registered '
                'depth, such as aligned_depth_to_color/image_raw or depth_registered/image_raw'
            )

    def _camera(self, topic: str) -> Any:
        """Return the first camera_info of the camera of a topic, or None."""
        base = topic.removesuffix('/compressed').removesuffix('/compressedDepth')
        sibling = f'{base.rpartition("/")[0]}/camera_info'
        infos = [
            c
            for c in self._reader.connections
            if c.topic == sibling and c.msgtype == CAMERA and c.msgcount
        ]
        return self._message(infos) if infos else None

    def _stamps(self, connections: list[Any]) -> list[tuple[int, int]]:
        """Return (stamp, receive time) of every message, sorted, nanoseconds."""
        messages = self._reader.messages(connections)
        return sorted({header_stamp_ns(data): received for _, received, data in messages}.items())

    def _message(self, connections: list[Any], received: int | None = None) -> Any:
        """Return the message received at a time, or the first one."""
        span = {} if received is None else {'start': received, 'stop': received + 1}
        with self._lock:
            connection, _, data = next(self._reader.messages(connections, **span))
            return self._reader.deserialize(data, connection.msgtype)


def recording_parts(bag: Path) -> list[Path]:
    """
    Return the paths to open: the folder if its metadata.yaml names a storage, else its files.

    :raises OSError: there is neither, or metadata.yaml is not YAML.
    """
    if bag.is_file():
        return [bag]
    if _storage(bag / 'metadata.yaml'):
        return [bag]
    files = [*find_files(bag, '*.mcap'), *find_files(bag, '*.db3')]
    if not files:
        raise FileNotFoundError(
            f'expected a recording in {bag} (metadata.yaml, .mcap or .db3 files), found none; '
            'name the folder that ros2 bag record has written'
        )
    return files


def _storage(metadata: Path) -> str:
    """Return the storage id in a metadata.yaml; empty without the file or the id."""
    if not metadata.is_file():
        return ''
    try:
        content = yaml.safe_load(read_text(metadata))
        return str(content['rosbag2_bagfile_information']['storage_identifier'] or '')
    except (yaml.YAMLError, KeyError, TypeError, RecursionError) as error:
        raise OSError(
            f'{metadata}: expected the metadata of a recording, got {type(error).__name__}; '
            f'remove it to read the files beside it, or run ros2 bag reindex {metadata.parent}'
        ) from None


def open_recording(parts: list[Path]) -> Any:
    """
    Open a recording with rosbags; the caller closes it.

    :param parts: from `recording_parts`.
    :returns: rosbags.highlevel.AnyReader.
    :raises OSError: a file is missing, or the recording is damaged or incomplete.
    """
    from rosbags.highlevel import AnyReader, AnyReaderError
    from rosbags.typesys import get_typestore, Stores

    for part in parts:
        files = [*find_files(part, '*.mcap'), *find_files(part, '*.db3')]
        for file in files if part.is_dir() else [part]:
            existing(file)
    try:
        # Recordings of older distributions do not contain their message definitions.
        reader = AnyReader(parts, default_typestore=get_typestore(Stores.ROS2_HUMBLE))
        reader.open()
    except AnyReaderError as error:
        raise OSError(
            f'{parts[0]}: expected a complete recording ({error}); try ros2 bag reindex, or copy '
            'it again'
        ) from error
    return reader


def header_stamp_ns(data: bytes | memoryview) -> int:
    """Return the stamp of the header at the start of a message in CDR."""
    order = '<' if data[1] & 1 else '>'
    seconds, nanoseconds = struct.unpack_from(f'{order}iI', data, 4)
    return int(seconds) * 1_000_000_000 + int(nanoseconds)


def _nearest(messages: list[tuple[int, int]], stamp: int) -> int | None:
    """Return the receive time of the message nearest to a stamp, if within SLOP_NS."""
    index = bisect_left(messages, (stamp, 0))
    near = [m for m in messages[max(index - 1, 0) : index + 1] if abs(m[0] - stamp) <= SLOP_NS]
    return min(near, key=lambda m: abs(m[0] - stamp))[1] if near else None
