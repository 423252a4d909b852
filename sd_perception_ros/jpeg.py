"""
Decoding of JPEGs that refuses damaged data.

A decoder fills blocks whose data is missing with mid-grey and reports success. Two checks find
this:

1. The markers, before decoding.
2. Whether the coded data ends where the image ends. The header is changed to a higher image: the
   additional blocks are grey if the data ended in time. If the last block of the image is grey,
   its data may be missing. Then other bytes are appended: they change the image only if the
   decoder needed them for it.
"""

from __future__ import annotations

from dataclasses import dataclass
import io
import re
import struct

import cv2
import numpy as np
from numpy.typing import NDArray
import PIL.Image

from sd_perception_ros.types import UInt8

SIGNATURE = b'\xff\xd8\xff'
_GREY = 128
# Units after the image that are not checked, twice as many for grey JPEGs: some cameras append a
# few bytes to the data of each image.
_SPARE_UNITS = 3
_MARKER = re.compile(rb'\xff[\x01-\xfe]')
_RESTART = re.compile(rb'\xff[\xd0-\xd7]')
_RESTARTS = frozenset(range(0xD0, 0xD8))
_EOI, _SOS, _DRI = 0xD9, 0xDA, 0xDD
# Frame headers; 0xC4, 0xC8 and 0xCC have other meanings.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_HUFFMAN_FRAMES = frozenset({0xC0, 0xC1, 0xC2})
_SEQUENTIAL_FRAMES = frozenset({0xC0, 0xC1})
# Two sequences that differ in every bit, appended to the data of an image: if the results differ,
# the decoder needed these bytes for the image.
_PROBES = bytes([0x5A, 0xC3, 0x96, 0x3C]) * 30, bytes([0xA5, 0x3C, 0x69, 0xC3]) * 30


@dataclass(frozen=True)
class Layout:
    """
    The structure of a JPEG.

    :ivar size_at: position of the height (two bytes, then two of width) in the frame header.
    :ivar unit: height and width of the smallest coded unit, pixels.
    :ivar channels: 1 grey, 3 colour, 4 CMYK.
    :ivar end: position after the end marker; padding may follow.
    :ivar restart_interval: coded units between two restart markers; 0: none.
    :ivar frame: code of the frame header: 0xC0 to 0xC2 are Huffman-coded.
    :ivar sequential: one scan has the whole image.
    :ivar data_at: position of the data of the last scan.
    """

    size_at: int
    height: int
    width: int
    unit: tuple[int, int]
    channels: int
    end: int
    restart_interval: int
    frame: int
    sequential: bool
    data_at: int

    @property
    def columns(self) -> int:
        """Coded units in a row."""
        return -(-self.width // self.unit[1])

    @property
    def rows(self) -> int:
        """Rows of coded units."""
        return -(-self.height // self.unit[0])


def decode(data: bytes) -> UInt8:
    """
    Decode a JPEG; the EXIF orientation is ignored.

    :returns: (H, W, 3) uint8 BGR, or (H, W) of a grey JPEG.
    :raises ValueError: the data is damaged: cut, incomplete, or longer than the image needs.
    """
    layout = read_layout(data)
    mode = cv2.IMREAD_GRAYSCALE if layout.channels == 1 else cv2.IMREAD_COLOR
    data = data[: layout.end]
    if layout.frame in _HUFFMAN_FRAMES:
        _check_end(data, layout)
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), mode | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise ValueError(f'the JPEG cannot be decoded: {error.err}') from None
    if pixels is None:
        raise ValueError(f'the JPEG of {len(data)} bytes cannot be decoded; it is damaged')
    return np.asarray(pixels, np.uint8)


def read_layout(data: bytes) -> Layout:
    """
    Read the markers of a JPEG.

    :raises ValueError: markers are missing or in the wrong order, or a segment exceeds the data.
    """
    frame: tuple[int, int, int, int, int, int, int] | None = None
    interval, scans, data_at, at = 0, 0, 0, 2
    while True:
        if data[at : at + 1] != b'\xff':
            raise ValueError(
                f'the JPEG is damaged: expected a marker at byte {at} of {len(data)}; '
                + ('it was cut short' if at >= len(data) else 'its headers are damaged')
            )
        while data[at + 1 : at + 2] == b'\xff':  # fill bytes
            at += 1
        code = data[at + 1] if at + 1 < len(data) else -1
        if code == _EOI:
            break
        length = int.from_bytes(data[at + 2 : at + 4], 'big')
        if length < 2 or at + 2 + length > len(data):
            raise ValueError(
                f'the JPEG is damaged: a header at byte {at} has {length} bytes and the data '
                f'{len(data)}'
            )
        body = data[at + 4 : at + 2 + length]
        if code in _FRAMES:
            frame = code, at + 5, *_read_frame(body)
        elif code == _DRI and len(body) >= 2:
            interval = int.from_bytes(body[:2], 'big')
        at += 2 + length
        if code == _SOS:
            if frame is None:
                raise ValueError('the JPEG is damaged: its image data has no frame header')
            scans, data_at = scans + 1, at
            at = _end_of_scan(data, at, _expected_restarts(frame, interval))
    if frame is None or not scans:
        raise ValueError('the JPEG has tables, but no image data')
    code, size_at, height, width, unit_y, unit_x, channels = frame
    sequential = code in _SEQUENTIAL_FRAMES and scans == 1
    return Layout(
        size_at,
        height,
        width,
        (unit_y, unit_x),
        channels,
        at + 2,
        interval if sequential else 0,
        code,
        sequential,
        data_at,
    )


def _read_frame(body: bytes) -> tuple[int, int, int, int, int]:
    """Return height, width, height and width of a coded unit, and the number of channels."""
    if len(body) < 6 or len(body) < 6 + 3 * body[5] or not body[5]:
        raise ValueError('the JPEG is damaged: its frame header is cut short')
    height, width, channels = struct.unpack('>xHHB', body[:6])
    sampling = [body[6 + 3 * index + 1] for index in range(channels)]
    if not height or not width or any(not s >> 4 or not s & 15 for s in sampling):
        raise ValueError(f'the JPEG is damaged: its frame header has {width} x {height} pixels')
    if channels == 1:
        return height, width, 8, 8, 1
    across, down = max(s >> 4 for s in sampling), max(s & 15 for s in sampling)
    return height, width, 8 * down, 8 * across, channels


def _expected_restarts(frame: tuple[int, ...], interval: int) -> int | None:
    """Return how many restart markers a scan must have; None if unknown."""
    code, _, height, width, unit_y, unit_x, _ = frame
    if code not in _SEQUENTIAL_FRAMES:
        return None
    if not interval:
        return 0
    units = -(-height // unit_y) * -(-width // unit_x)
    return (units - 1) // interval


def _end_of_scan(data: bytes, start: int, restarts: int | None) -> int:
    """Return the position of the first marker after the data of a scan; check restart markers."""
    for seen, found in enumerate(_MARKER.finditer(data, start)):
        code = data[found.start() + 1]
        if code not in _RESTARTS:
            if restarts is not None and seen not in (restarts, restarts + 1):
                raise ValueError(
                    f'the JPEG is damaged: expected {restarts} restart markers, found {seen}'
                )
            return found.start()
        if restarts is not None and code != 0xD0 + seen % 8:
            raise ValueError(
                f'the JPEG is damaged: restart marker {seen} of {restarts} has the number '
                f'{code - 0xD0} instead of {seen % 8}'
            )
    raise ValueError(f'the JPEG was cut short: its {len(data)} bytes have no end marker')


def _check_end(data: bytes, layout: Layout) -> None:
    """Raise ValueError if the data of an image ends before the image, or after it."""
    taller = _with_spare_rows(data, layout) if layout.sequential else None
    levels = _pixels(taller or data, reduced=True)[..., 0]  # of CMYK, cyan
    spare = layout.rows * layout.columns + _SPARE_UNITS * (2 if layout.channels == 1 else 1)
    if taller is not None and not _any_grey(levels, layout, np.array([spare])):
        raise ValueError(
            'the JPEG is damaged: its data continues after the last row of the image; a part of '
            'it was lost or replaced in transit'
        )
    ends = _ends_of_intervals(layout)
    if taller is not None:  # grey, if the data ended within the last unit
        ends = np.append(ends, ends[-1] + 1)
    # The camera may see something grey, so the image is decoded again.
    if not _any_grey(levels, layout, ends):
        return
    first, second = (_pixels(_with_probes(data, layout, probe)) for probe in _PROBES)
    if not np.array_equal(first, second):
        raise ValueError(
            'the JPEG is damaged: its data ends before the last row of the image; a part of it '
            'was lost in transit'
        )


def _with_spare_rows(data: bytes, layout: Layout) -> bytes | None:
    """Return the data with the header of a higher image; None if a JPEG cannot be so high."""
    height = (layout.rows + -(-(2 * _SPARE_UNITS + 1) // layout.columns)) * layout.unit[0]
    if height > 0xFFFF:
        return None
    at = layout.size_at
    return b''.join((data[:at], height.to_bytes(2, 'big'), data[at + 2 :]))


def _pixels(data: bytes, reduced: bool = False) -> UInt8:
    """
    Decode a JPEG, (H, W, C); OpenCV would write libjpeg's warnings to the terminal.

    :param reduced: one grey pixel for each block of 8 x 8 pixels.
    """
    step = 1
    try:
        with PIL.Image.open(io.BytesIO(data), formats=['JPEG']) as image:
            if reduced:  # by 8, or as far as the smaller side allows
                step = 8 // next(factor for factor in (8, 4, 2, 1) if min(image.size) >= factor)
                image.draft('L', (1, 1))
            pixels = np.asarray(image)
            return pixels.reshape(*pixels.shape[:2], -1)[::step, ::step]
    except (OSError, SyntaxError, PIL.Image.DecompressionBombError) as error:
        raise ValueError(f'the JPEG is damaged: {error}') from None


def _ends_of_intervals(layout: Layout) -> NDArray[np.intp]:
    """Return the indices of the last coded unit before each restart and of the last unit."""
    last = layout.rows * layout.columns - 1
    step = layout.restart_interval or last + 1
    return np.append(np.arange(step - 1, last, step), last)


def _any_grey(levels: UInt8, layout: Layout, units: NDArray[np.intp]) -> bool:
    """
    Return whether one of the coded units is mid-grey: its data may be missing.

    :param levels: (h, w), one for each block of 8 x 8 pixels.
    :param units: (N,) indices, row by row.
    """
    rows, columns = np.divmod(units, layout.columns)
    high, wide = layout.unit[0] // 8, layout.unit[1] // 8
    rows = (rows * high).clip(max=levels.shape[0] - 1)
    columns = (columns * wide).clip(max=levels.shape[1] - 1)
    grey = (_GREY - 1, _GREY) if layout.channels == 4 else _GREY  # YCCK is inverted
    return bool(np.isin(levels[rows, columns], grey).any())


def _with_probes(data: bytes, layout: Layout, probe: bytes) -> bytes:
    """Return the data with bytes inserted before each restart and at the end."""
    start = layout.data_at
    probed = _RESTART.sub(lambda marker: probe + marker.group(), data[start:-2])
    return data[:start] + probed + probe + data[-2:]
