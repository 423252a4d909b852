"""Videos that browsers play: H.264 by PyAV, or VP8 by OpenCV where PyAV is not installed."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from sd_perception_ros.types import UInt8

av: Any
try:
    import av
except ImportError:  # optional: requirements/predict.txt
    av = None

SUFFIX = '.mp4' if av else '.webm'
FILM_NOTE = (
    ''
    if av
    else 'PyAV is not installed: videos are VP8 in WebM by OpenCV, which takes several times as '
    'long as H.264; python -m pip install av'
)
_TIME_BASE = Fraction(1, 1000)  # of the stamps, seconds


class Film:
    """
    A video file that appears when it is complete.

    :param file: with the suffix `SUFFIX`.
    :param rate_hz: frames per second; PyAV takes the stamps of the frames instead.
    """

    def __init__(self, file: Path, rate_hz: float) -> None:
        self._file, self._rate_hz = file, rate_hz
        self._part = file.with_name(f'.{file.stem}.part{file.suffix}')
        self._writer: Any = None
        self._stream: Any = None
        self._first_s, self._last_stamp = 0.0, -1

    def write(self, rgb: UInt8, stamp_s: float) -> None:
        """
        Add a frame.

        :param rgb: (H, W, 3) uint8; H and W are even, and those of the first frame.
        :param stamp_s: time of the frame, seconds; the video starts with the first one.
        :raises OSError: it cannot be written.
        """
        if self._writer is None:
            self._open(rgb.shape[1], rgb.shape[0])
            self._first_s = stamp_s
        if av is None:
            self._writer.write(np.ascontiguousarray(rgb[..., ::-1]))
            return
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format='rgb24')
        self._last_stamp = max(round((stamp_s - self._first_s) * 1000), self._last_stamp + 1)
        picture.pts, picture.time_base = self._last_stamp, _TIME_BASE
        self._writer.mux(self._stream.encode(picture))

    def finish(self) -> bool:
        """
        Complete the file; return whether there is one: not without frames.

        :raises OSError: it cannot be written.
        """
        if self._writer is None:
            return False
        if av is None:
            self._writer.release()
        else:
            self._writer.mux(self._stream.encode())
            self._writer.close()
        self._writer = None
        self._part.replace(self._file)
        return True

    def discard(self) -> None:
        """Remove the file if it is not complete."""
        self._writer = self._stream = None
        self._part.unlink(missing_ok=True)

    def _open(self, width: int, height: int) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._part.touch()  # an OSError with the name, which the libraries do not give
        if av is None:
            code = cv2.VideoWriter.fourcc(*'VP80')
            self._writer = cv2.VideoWriter(str(self._part), code, self._rate_hz, (width, height))
            if not self._writer.isOpened():
                raise OSError(f'OpenCV cannot write {self._file}; python -m pip install av')
            return
        # faststart: the index comes first, so that browsers begin before all is loaded.
        options = {'movflags': 'faststart'}
        self._writer = av.open(str(self._part), 'w', format='mp4', container_options=options)
        rate = Fraction(self._rate_hz).limit_denominator(1001)
        self._stream = self._writer.add_stream('libx264', rate=rate)
        self._stream.width, self._stream.height = width, height
        self._stream.pix_fmt = 'yuv420p'  # browsers play no other
        self._stream.codec_context.time_base = _TIME_BASE
        self._stream.options = {'preset': 'superfast', 'crf': '20'}
