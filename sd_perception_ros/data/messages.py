"""Pictures and depth from the fields of recorded ROS messages, without ROS."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

# Encoding of a sensor_msgs/Image: channels, and OpenCV's conversion to RGB (None: it is RGB).
COLORS: dict[str, tuple[int, int | None]] = {
    'rgb8': (3, None),
    'bgr8': (3, cv2.COLOR_BGR2RGB),
    '8UC3': (3, cv2.COLOR_BGR2RGB),
    'rgba8': (4, cv2.COLOR_RGBA2RGB),
    'bgra8': (4, cv2.COLOR_BGRA2RGB),
    'mono8': (1, cv2.COLOR_GRAY2RGB),
    '8UC1': (1, cv2.COLOR_GRAY2RGB),
    'yuv422_yuy2': (2, cv2.COLOR_YUV2RGB_YUY2),
    'uyvy': (2, cv2.COLOR_YUV2RGB_UYVY),
}
# Encoding of depth: its numbers, and how many of them are a metre (REP 118).
DEPTHS: dict[str, tuple[str, float]] = {
    '16UC1': ('u2', 1000),
    'mono16': ('u2', 1000),
    '32FC1': ('f4', 1),
}
_HEAD_BYTES = 12  # of compressedDepth: a number of the format, and two of the quantization


def is_depth(message: Any) -> bool:
    """Return whether an Image or CompressedImage holds depth."""
    if hasattr(message, 'format'):
        return 'compressedDepth' in message.format
    return message.encoding in DEPTHS


def rgb_of(message: Any) -> NDArray[np.uint8]:
    """
    Return the picture of an Image or CompressedImage, (H, W, 3) uint8 RGB.

    :raises ValueError: an encoding that is no picture, or too few bytes.
    """
    if hasattr(message, 'format'):
        pixels: Any = cv2.imdecode(np.asarray(message.data), cv2.IMREAD_COLOR)
        if pixels is None:
            raise ValueError(f'expected a compressed picture, got {message.format}')
        return np.ascontiguousarray(pixels[..., ::-1])
    if message.encoding not in COLORS:
        raise ValueError(
            f'expected a picture in one of {", ".join(COLORS)}, got {message.encoding}; choose '
            'another topic'
        )
    channels, conversion = COLORS[message.encoding]
    levels = _rows(message, np.dtype('u1'), channels)
    if conversion is None:
        return levels
    return np.asarray(cv2.cvtColor(levels, conversion), np.uint8)


def depth_m_of(message: Any) -> NDArray[np.float32]:
    """
    Return the depth of an Image or CompressedImage, (H, W) float32 metres.

    Zero and too near (-Inf, REP 117) are NaN; +Inf, nothing in range, stays.

    :raises ValueError: an encoding that is no depth, or too few bytes.
    """
    if hasattr(message, 'format'):
        depth_m = _decompressed(message)
    elif message.encoding in DEPTHS:
        kind, per_m = DEPTHS[message.encoding]
        order = '>' if message.is_bigendian else '<'
        depth_m = (_rows(message, np.dtype(order + kind), 1) / per_m).astype(np.float32)
    else:
        raise ValueError(
            f'expected depth in one of {", ".join(DEPTHS)}, got {message.encoding}; choose '
            'another topic'
        )
    depth_m[~(depth_m > 0)] = np.nan
    return depth_m


def _rows(message: Any, dtype: np.dtype[Any], channels: int) -> NDArray[Any]:
    """Return (H, W) or (H, W, channels) numbers, without what pads the rows."""
    row_bytes = message.width * channels * dtype.itemsize
    data = np.asarray(message.data, np.uint8)
    if message.step < row_bytes or len(data) < message.step * message.height:
        raise ValueError(
            f'expected {message.height} rows of at least {row_bytes} bytes, got {len(data)} bytes '
            f'in steps of {message.step}; the recording is broken'
        )
    rows = data[: message.step * message.height].reshape(message.height, message.step)
    numbers = np.ascontiguousarray(rows[:, :row_bytes]).view(dtype)
    return numbers if channels == 1 else numbers.reshape(message.height, -1, channels)


def _decompressed(message: Any) -> NDArray[np.float32]:
    """Decode what compressed_depth_image_transport writes: a PNG behind a head."""
    data = np.asarray(message.data, np.uint8)
    levels: Any = cv2.imdecode(data[_HEAD_BYTES:], cv2.IMREAD_UNCHANGED)
    if levels is None or levels.dtype != np.uint16:
        raise ValueError(f'expected depth as a PNG of 16 bits, got {message.format}')
    if message.format.startswith('32FC1'):  # the PNG holds its inverse, quantized
        factor, offset = data[4:_HEAD_BYTES].view('<f4')
        inverse = levels.astype(np.float32)
        return np.where(levels > 0, factor / (inverse - offset), np.nan).astype(np.float32)
    depth_m: NDArray[np.float32] = (levels / 1000).astype(np.float32)
    return depth_m
