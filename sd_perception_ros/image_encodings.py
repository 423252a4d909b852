"""
Conversion of image messages to arrays: colour to RGB, depth to metres.

Used by the node and by the reader of bags (`data/formats/rosbag.py`). The functions read the
fields of sensor_msgs/Image and sensor_msgs/CompressedImage without importing ROS: messages may
come from rclpy or from the package rosbags.

cv_bridge is not used: its builds differ for 16-bit, padded and malformed images, and its copy of a
message takes longer than the conversion here.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sd_perception_ros.types import Float, UInt8

MAX_PIXELS = 50_000_000

# Encodings of sensor_msgs/Image: bytes per channel, number of channels, and OpenCV's conversion to
# RGB (None: it is RGB). OpenCV names a Bayer pattern by its second row, ROS by its first.
ENCODINGS: dict[str, tuple[int, int, int | None]] = {
    'rgb8': (1, 3, None),
    'bgr8': (1, 3, cv2.COLOR_BGR2RGB),
    'rgba8': (1, 4, cv2.COLOR_RGBA2RGB),
    'bgra8': (1, 4, cv2.COLOR_BGRA2RGB),
    'mono8': (1, 1, cv2.COLOR_GRAY2RGB),
    '8UC1': (1, 1, cv2.COLOR_GRAY2RGB),
    '8UC3': (1, 3, cv2.COLOR_BGR2RGB),
    '8UC4': (1, 4, cv2.COLOR_BGRA2RGB),
    'mono16': (2, 1, cv2.COLOR_GRAY2RGB),
    'rgb16': (2, 3, None),
    'bgr16': (2, 3, cv2.COLOR_BGR2RGB),
    'rgba16': (2, 4, cv2.COLOR_RGBA2RGB),
    'bgra16': (2, 4, cv2.COLOR_BGRA2RGB),
    'bayer_rggb8': (1, 1, cv2.COLOR_BayerBG2RGB),
    'bayer_bggr8': (1, 1, cv2.COLOR_BayerRG2RGB),
    'bayer_gbrg8': (1, 1, cv2.COLOR_BayerGR2RGB),
    'bayer_grbg8': (1, 1, cv2.COLOR_BayerGB2RGB),
    'bayer_rggb16': (2, 1, cv2.COLOR_BayerBG2RGB),
    'bayer_bggr16': (2, 1, cv2.COLOR_BayerRG2RGB),
    'bayer_gbrg16': (2, 1, cv2.COLOR_BayerGR2RGB),
    'bayer_grbg16': (2, 1, cv2.COLOR_BayerGB2RGB),
    'yuv422': (1, 2, cv2.COLOR_YUV2RGB_UYVY),
    'uyvy': (1, 2, cv2.COLOR_YUV2RGB_UYVY),
    'yuv422_yuy2': (1, 2, cv2.COLOR_YUV2RGB_YUY2),
    'yuyv': (1, 2, cv2.COLOR_YUV2RGB_YUY2),
    'nv21': (1, 1, cv2.COLOR_YUV2RGB_NV21),
}
_NOT_COLOUR = ('16UC1', '32FC1', '16SC1', '64FC1')
DEPTH_ENCODINGS: dict[str, np.dtype[Any]] = {
    '32FC1': np.dtype('f4'),
    '16UC1': np.dtype('u2'),
    'mono16': np.dtype('u2'),
}


def image_to_rgb(msg: Any, max_pixels: int = MAX_PIXELS) -> UInt8:
    """
    Convert a colour or grey Image message to RGB.

    :param max_pixels: larger images are refused before memory is allocated.
    :returns: (H, W, 3) uint8 RGB; for rgb8 without padding a view of the message's memory.
    :raises ValueError: another encoding, or inconsistent sizes.
    """
    check_size(msg.width, msg.height, max_pixels)
    item_bytes, channels, conversion = _layout(msg.encoding)
    height, multiple = _rows(msg)
    if msg.width % multiple or msg.height % (multiple if msg.encoding == 'nv21' else 1):
        raise ValueError(
            f'{msg.encoding} has one colour for two pixels, so its size must be even, got '
            f'{msg.width} x {msg.height}'
        )
    pixels = _pixel_bytes(msg, height, msg.width * channels * item_bytes)
    if item_bytes == 2:
        # Keep the most significant byte of each value.
        pixels = np.ascontiguousarray(pixels[:, 0 if msg.is_bigendian else 1 :: 2])
    pixels = pixels.reshape(height, msg.width, channels)
    if conversion is None:
        return pixels
    return _cv_convert(pixels, conversion, msg.encoding)


def image_to_depth(msg: Any, max_pixels: int = MAX_PIXELS) -> Float:
    """
    Convert a depth Image (REP 118).

    16UC1 and mono16 are millimetres, 0 is unknown. 32FC1 is metres; -Inf (too near), +Inf (out of
    range) and NaN (unknown) are kept.

    :param max_pixels: larger images are refused before memory is allocated.
    :returns: (H, W) float32 metres, NaN where unknown.
    :raises ValueError: another encoding, or inconsistent sizes.
    """
    check_size(msg.width, msg.height, max_pixels)
    kind = DEPTH_ENCODINGS.get(msg.encoding)
    if kind is None:
        raise ValueError(
            f"expected a depth image in {', '.join(DEPTH_ENCODINGS)}, got '{msg.encoding}'; "
            'choose another topic'
        )
    data = _pixel_bytes(msg, msg.height, msg.width * kind.itemsize)
    values = data.view(kind.newbyteorder('>' if msg.is_bigendian else '<'))
    return millimetres_to_metres(values) if kind.kind == 'u' else values.astype(np.float32)


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Raise ValueError for an image without pixels or with more than `max_pixels`."""
    if not (width > 0 and height > 0):
        raise ValueError(
            f'an image has at least one pixel, got {width} x {height}; the camera driver sends '
            'a malformed message'
        )
    if width * height > max_pixels:
        raise ValueError(
            f'the image has {width} x {height} pixels, more than max_pixels = {max_pixels}; '
            'raise max_pixels if the camera is really this large'
        )


def _pixel_bytes(msg: Any, height: int, row_bytes: int) -> UInt8:
    """Return the data of an Image without the padding of its rows: (height, row_bytes) uint8."""
    if msg.step < row_bytes:
        raise ValueError(
            f'step must be at least {row_bytes} bytes for a row of {msg.width} {msg.encoding} '
            f'pixels, got {msg.step}; the camera driver sends a malformed message'
        )
    if msg.step * height > len(msg.data):
        raise ValueError(
            f'data must hold {msg.step * height} bytes (step {msg.step} x {height} rows), got '
            f'{len(msg.data)}; the message is truncated'
        )
    data = np.frombuffer(msg.data, np.uint8, msg.step * height).reshape(height, msg.step)
    return np.ascontiguousarray(data[:, :row_bytes])


def millimetres_to_metres(millimetres: NDArray[np.uint16]) -> Float:
    """Convert (H, W) millimetres to float32 metres; 0 becomes NaN."""
    depth_m = millimetres.astype(np.float32) / np.float32(1000)
    depth_m[millimetres == 0] = np.nan
    return depth_m


def _layout(encoding: str) -> tuple[int, int, int | None]:
    if encoding in ENCODINGS:
        return ENCODINGS[encoding]
    hint = f'choose one of: {", ".join(ENCODINGS)}'
    if encoding in _NOT_COLOUR:
        hint = "this is a depth image; a 16-bit grey image is called 'mono16'"
    raise ValueError(f"expected a colour or grey image, got the encoding '{encoding}'; {hint}")


def _rows(msg: Any) -> tuple[int, int]:
    """Return the number of rows of `step` bytes, and a factor that the width must have."""
    if msg.encoding == 'nv21':  # a luma plane, then a chroma plane of half the height
        return msg.height + (msg.height + 1) // 2, 2
    return msg.height, 2 if ENCODINGS[msg.encoding][1] == 2 else 1


def _cv_convert(pixels: UInt8, conversion: int, encoding: str) -> UInt8:
    try:
        rgb = cv2.cvtColor(pixels, conversion)
    except cv2.error as error:
        raise ValueError(
            f'{pixels.shape[1]} x {pixels.shape[0]} {encoding} pixels cannot be converted to '
            f'RGB: {error.err}'
        ) from None
    return np.asarray(rgb, np.uint8)
