"""Matching of CameraInfo with images, and dropping of old or duplicate frames."""

from __future__ import annotations

from collections import deque, OrderedDict
import threading
from typing import Generic, TypeVar

from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header

from sd_perception_ros.ros.frame import stamp_ns
from sd_perception_ros.ros.messages.camera_info import image_size

T = TypeVar('T')

# Number of stored infos.
_BUFFER_SIZE = 30
# Number of stored messages of a sensor or detector.
_MESSAGE_BUFFER_SIZE = 10
# Number of images that wait for detections: memory, at any rate of the camera.
_MAX_PENDING_IMAGES = 30
# A step back by more than this is a restart, for example of a looping bag.
_RESTART_NS = 1_000_000_000


class CameraInfos:
    """
    Buffer of camera infos.

    An image is matched with the info of the same stamp, or else with the latest info of the same
    frame and size: the info often arrives a moment after its image, and intrinsics rarely change
    at a constant resolution.
    """

    def __init__(self) -> None:
        self._by_stamp: OrderedDict[int, CameraInfo] = OrderedDict()

    def add(self, info: CameraInfo) -> None:
        """Store an info; the oldest one is removed if there are too many."""
        self._by_stamp.pop(stamp_ns(info.header), None)
        self._by_stamp[stamp_ns(info.header)] = info
        if len(self._by_stamp) > _BUFFER_SIZE:
            self._by_stamp.popitem(last=False)

    def match(self, header: Header, width: int, height: int) -> CameraInfo | None:
        """
        Find the info of an image with this header and size; None if there is none.

        Infos with the image's stamp, or without a size, are returned unchecked:
        `camera_from_info` reports their errors.
        """
        exact = self._by_stamp.get(stamp_ns(header))
        if exact is not None and exact.header.frame_id == header.frame_id:
            return exact
        for info in reversed(list(self._by_stamp.values())):
            fits = image_size(info) in ((width, height), (0, 0))
            if fits and info.header.frame_id == header.frame_id:
                return info
        return None

    @property
    def latest(self) -> CameraInfo | None:
        """Newest info; None if none was received."""
        return next(reversed(self._by_stamp.values()), None)

    def clear(self) -> None:
        """Remove all infos, after a jump in time."""
        self._by_stamp.clear()


class StampedMessages(Generic[T]):
    """
    Buffer of a topic's last messages; the executor thread adds them, the worker thread reads.

    :param topic: full name of the topic, for errors.
    :param option: name of the parameter with `max_offset_s`, for errors.
    :param max_offset_s: maximum difference of the stamps of a message and an image.
    """

    def __init__(self, topic: str, option: str, max_offset_s: float) -> None:
        self._topic, self._option, self._max_offset_s = topic, option, max_offset_s
        self._lock = threading.Lock()
        self._by_stamp: OrderedDict[int, T] = OrderedDict()

    def add(self, stamp: int, msg: T) -> None:
        """Store a message; the oldest one is removed if there are too many."""
        with self._lock:
            self._by_stamp[stamp] = msg
            if len(self._by_stamp) > _MESSAGE_BUFFER_SIZE:
                self._by_stamp.popitem(last=False)

    def nearest(self, stamp: int) -> T:
        """
        Return the message nearest to a stamp in nanoseconds.

        :raises ValueError: none is near enough.
        """
        with self._lock:
            messages = list(self._by_stamp.items())
        if not messages:
            raise ValueError(f'no message was received on {self._topic}')
        nearest, msg = min(messages, key=lambda item: abs(item[0] - stamp))
        offset_s = abs(nearest - stamp) / 1e9
        if not offset_s <= self._max_offset_s:
            raise ValueError(
                f'the stamps of the image and of the nearest message on {self._topic} differ by '
                f'{offset_s:.3f} s, more than {self._option} = {self._max_offset_s:g}; '
                'synchronize the clocks'
            )
        return msg

    def reaches(self, stamp: int) -> bool:
        """Return whether a message of this stamp in nanoseconds, or of a later one, has come."""
        with self._lock:
            return any(own >= stamp for own in self._by_stamp)

    def clear(self) -> None:
        """Forget all messages."""
        with self._lock:
            self._by_stamp.clear()


class PendingImages(Generic[T]):
    """
    Images that wait for the message of another topic; they leave in the order of their arrival.

    :param max_wait_ns: longest time that an image waits, in nanoseconds of a steady clock.
    """

    def __init__(self, max_wait_ns: int) -> None:
        self._max_wait_ns = max_wait_ns
        self._waiting: deque[tuple[int, int, T]] = deque()

    def __len__(self) -> int:
        """Return the number of images that wait."""
        return len(self._waiting)

    def add(self, stamp: int, arrival_ns: int, image: T) -> None:
        """Let an image wait, from its arrival on."""
        self._waiting.append((stamp, arrival_ns, image))

    def take(self, stamp: int | None, now_ns: int) -> list[T]:
        """
        Remove and return the images that need not wait any longer.

        :param stamp: of a message that has come: images up to this stamp have theirs; None: no
            message has come.
        :param now_ns: time of the steady clock: images that waited too long leave, too, and so do
            the ones that exceed a limit in number.
        """
        done = 0
        for index, (own, arrival_ns, _) in enumerate(self._waiting):
            is_late = now_ns - arrival_ns >= self._max_wait_ns
            if is_late or (stamp is not None and own <= stamp):
                done = index + 1
        done = max(done, len(self._waiting) - _MAX_PENDING_IMAGES)
        return [self._waiting.popleft()[2] for _ in range(done)]

    def clear(self) -> None:
        """Drop all images, after a jump in time."""
        self._waiting.clear()


class FramePolicy:
    """
    Decide by the stamp whether to drop a frame.

    :ivar last_ns: stamp of the previous frame that was not dropped as not later, nanoseconds;
        None before the first.
    """

    def __init__(self, max_age_s: float, drop_duplicates: bool) -> None:
        self.last_ns: int | None = None
        self.set_limits(max_age_s, drop_duplicates)

    def set_limits(self, max_age_s: float, drop_duplicates: bool) -> None:
        """Change the limits; the last stamp is kept."""
        self._max_age_ns = round(max_age_s * 1e9)
        self._drop_duplicates = drop_duplicates

    def reason_to_drop(self, stamp: int, now: int) -> str:
        """
        Return the reason to drop a frame; empty to process it.

        :param stamp: stamp of the frame, nanoseconds; 0: the driver sets no stamps, never drop.
        :param now: time of the node's clock, nanoseconds.
        """
        if stamp == 0:
            return ''
        last, self.last_ns = self.last_ns, stamp
        if self._drop_duplicates and last is not None and 0 <= last - stamp < _RESTART_NS:
            self.last_ns = last
            return 'stamp_not_later'
        return self.too_old(stamp, now)

    def too_old(self, stamp: int, now: int) -> str:
        """Return 'too_old' for a frame above the age limit, else ''; arguments as above."""
        if stamp and self._max_age_ns and now - stamp > self._max_age_ns:
            return 'too_old'
        return ''

    def reset(self) -> None:
        """Forget the last stamp, after a jump in time."""
        self.last_ns = None
