"""Which CameraInfo belongs to an image, and which frames are too old or come twice."""

from __future__ import annotations

from collections import OrderedDict
import threading
from typing import Generic, TypeVar

from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header

from sd_perception_ros.ros.frame import stamp_ns
from sd_perception_ros.ros.messages.camera_info import image_size

T = TypeVar('T')

# Infos kept while their images are on the way.
_KEPT = 30
# Messages of a sensor or detector kept while their pictures are on the way.
_KEPT_MESSAGES = 10
# A stream whose stamps go back by more than this has started again: a bag that loops.
_RESTART_NS = 1_000_000_000


class CameraInfos:
    """
    Camera infos by stamp.

    An image takes the info of exactly its stamp; where there is none, the latest of the same
    frame and size: intrinsics change with the resolution but hardly ever else, and the info of a
    live camera often arrives a moment after its image.
    """

    def __init__(self) -> None:
        self._by_stamp: OrderedDict[int, CameraInfo] = OrderedDict()

    def add(self, info: CameraInfo) -> None:
        """Keep an info; the oldest goes when there are too many."""
        self._by_stamp.pop(stamp_ns(info.header), None)
        self._by_stamp[stamp_ns(info.header)] = info
        if len(self._by_stamp) > _KEPT:
            self._by_stamp.popitem(last=False)

    def match(self, header: Header, width: int, height: int) -> CameraInfo | None:
        """
        Find the info for an image with this header and size; None where none came.

        One of the image's own stamp is returned whatever it says, and so is one without a size:
        what is wrong with it is for `camera_from_info` to tell.
        """
        exact = self._by_stamp.get(stamp_ns(header))
        if exact is not None and exact.header.frame_id == header.frame_id:
            return exact
        for info in reversed(list(self._by_stamp.values())):
            fits = image_size(info) in ((width, height), (0, 0))
            if fits and info.header.frame_id == header.frame_id:
                return info
        return None

    def clear(self) -> None:
        """Forget everything, after a jump of time."""
        self._by_stamp.clear()


class StampedMessages(Generic[T]):
    """
    The last messages of a topic by stamp; the executor adds them, the worker reads.

    :param topic: its full name, for errors.
    :param option: name of the parameter that holds `max_offset_s`, for errors.
    :param max_offset_s: largest time between a message and a picture.
    """

    def __init__(self, topic: str, option: str, max_offset_s: float) -> None:
        self._topic, self._option, self._max_offset_s = topic, option, max_offset_s
        self._lock = threading.Lock()
        self._by_stamp: OrderedDict[int, T] = OrderedDict()

    def add(self, stamp: int, msg: T) -> None:
        """Keep a message of a stamp in nanoseconds; the oldest goes when there are too many."""
        with self._lock:
            self._by_stamp[stamp] = msg
            if len(self._by_stamp) > _KEPT_MESSAGES:
                self._by_stamp.popitem(last=False)

    def nearest(self, stamp: int) -> T:
        """
        Return the message nearest to a stamp in nanoseconds.

        :raises ValueError: none is near enough.
        """
        with self._lock:
            kept = list(self._by_stamp.items())
        if not kept:
            raise ValueError(f'no message has arrived on {self._topic}')
        nearest, msg = min(kept, key=lambda item: abs(item[0] - stamp))
        offset_s = abs(nearest - stamp) / 1e9
        if not offset_s <= self._max_offset_s:
            raise ValueError(
                f'the nearest message of {self._topic} is {offset_s:.3f} s away from the picture, '
                f'more than {self._option} = {self._max_offset_s:g}; compare the clocks'
            )
        return msg

    def clear(self) -> None:
        """Forget all messages."""
        with self._lock:
            self._by_stamp.clear()


class FramePolicy:
    """Decide by its stamp whether a frame is worth processing."""

    def __init__(self, max_age_s: float, drop_duplicates: bool) -> None:
        self._max_age_ns = round(max_age_s * 1e9)
        self._drop_duplicates = drop_duplicates
        self._last_ns: int | None = None

    def reason_to_drop(self, stamp: int, now: int) -> str:
        """
        Name the reason to drop a frame, or return an empty string.

        :param stamp: when the frame was taken, nanoseconds; 0: the driver sets no stamps, so
            nothing can be said about its age or order.
        :param now: the node's clock, nanoseconds.
        """
        if stamp == 0:
            return ''
        last, self._last_ns = self._last_ns, stamp
        if self._drop_duplicates and last is not None and 0 <= last - stamp < _RESTART_NS:
            self._last_ns = last
            return 'stamp_not_later'
        return self.too_old(stamp, now)

    def too_old(self, stamp: int, now: int) -> str:
        """Name the reason where a frame has passed the limit; ask again when it has waited."""
        if stamp and self._max_age_ns and now - stamp > self._max_age_ns:
            return 'too_old'
        return ''

    def reset(self) -> None:
        """Forget the last stamp, after a jump of time."""
        self._last_ns = None
