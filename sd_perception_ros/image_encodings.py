"""Image messages to arrays: pictures to RGB, depth to metres, without ROS."""

from __future__ import annotations

import io
from typing import Any

import cv2
import numpy as np
import PIL.Image

from sd_perception_ros.types import Float, UInt8

MAX_PIXELS = 50_000_000

# Encoding of a sensor_msgs/Image: bytes per channel, channels, and OpenCV's conversion to RGB
# (None: it is RGB). OpenCV names a Bayer pattern by the second row, ROS by the first.
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
_NOT_PICTURES = ('16UC1', '32FC1', '16SC1', '64FC1')


def image_to_rgb(msg: Any, max_pixels: int = MAX_PIXELS) -> UInt8:
    """
    Read a picture from an image message.

    :param max_pixels: larger pictures are refused before anything is allocated.
    :returns: (H, W, 3) uint8 RGB; for tightly packed rgb8 a view of the message's own memory.
    :raises ValueError: an encoding that is no picture, or sizes that contradict each other.
    """
    check_size(msg.width, msg.height, max_pixels)
    item_bytes, channels, conversion = _layout(msg.encoding)
    row_bytes = msg.width * channels * item_bytes
    if msg.step < row_bytes:
        raise ValueError(
            f'step must be at least {row_bytes} bytes for a row of {msg.width} {msg.encoding} '
            f'pixels, got {msg.step}; the camera driver fills the message wrongly'
        )
    rows, multiple = _rows(msg)
    if msg.step * rows > len(msg.data):
        raise ValueError(
            f'data must hold {msg.step * rows} bytes (step {msg.step} x {rows} rows), got '
            f'{len(msg.data)}; the message was cut short'
        )
    if msg.width % multiple or msg.height % (multiple if msg.encoding == 'nv21' else 1):
        raise ValueError(
            f'{msg.encoding} shares colour between pairs of pixels, so its size must be even, '
            f'got {msg.width} x {msg.height}'
        )
    data = np.frombuffer(msg.data, np.uint8, msg.step * rows).reshape(rows, msg.step)
    pixels = np.ascontiguousarray(data[:, :row_bytes])
    if item_bytes == 2:
        # Only the more significant byte of each value fits an 8-bit picture.
        pixels = np.ascontiguousarray(pixels[:, 0 if msg.is_bigendian else 1 :: 2])
    pixels = pixels.reshape(rows, msg.width, channels)
    if conversion is None:
        return pixels
    return _cv_convert(pixels, conversion, msg.encoding)


def compressed_to_rgb(msg: Any, max_pixels: int = MAX_PIXELS) -> UInt8:
    """
    Decode a JPEG or PNG message, (H, W, 3) uint8 RGB, as the sensor saw it (EXIF is ignored).

    :raises ValueError: data that is no picture, broken or too large, or a depth transport.
    """
    if 'compressedDepth' in msg.format:
        raise ValueError(f"expected a colour picture, got a depth image ('{msg.format}')")
    data = bytes(msg.data)
    try:  # reads the header only, so a huge picture is refused before it is decoded
        with PIL.Image.open(io.BytesIO(data)) as header:
            check_size(*header.size, max_pixels)
    except (OSError, SyntaxError, PIL.Image.DecompressionBombError) as error:
        raise ValueError(
            f'expected JPEG or PNG data, got {len(data)} bytes that are neither '
            f"(format says '{msg.format}'): {type(error).__name__}"
        ) from None
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        bgr = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise ValueError(f'the compressed picture cannot be decoded: {error.err}') from None
    if bgr is None:
        raise ValueError(
            f"the compressed picture ('{msg.format}', {len(data)} bytes) cannot be decoded; "
            'it is damaged or was cut short'
        )
    check_size(bgr.shape[1], bgr.shape[0], max_pixels)
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def depth_from_message(msg: Any, max_pixels: int = MAX_PIXELS) -> Float:
    """
    Read a depth image (REP 118): 32FC1 in metres or 16UC1 in millimetres, where 0 is unknown.

    :returns: (H, W) float32 metres, NaN where unknown.
    :raises ValueError: another encoding, or sizes that contradict each other.
    """
    check_size(msg.width, msg.height, max_pixels)
    kinds = {'32FC1': np.dtype('f4'), '16UC1': np.dtype('u2'), 'mono16': np.dtype('u2')}
    kind = kinds.get(msg.encoding)
    if kind is None:
        raise ValueError(f"a depth image is 32FC1 or 16UC1, got '{msg.encoding}'")
    row_bytes = msg.width * kind.itemsize
    if msg.step < row_bytes or msg.step * msg.height > len(msg.data):
        raise ValueError(
            f'{msg.width} x {msg.height} pixels of {msg.encoding} need {msg.height} steps of '
            f'{row_bytes} bytes, got steps of {msg.step} and {len(msg.data)} bytes'
        )
    data = np.frombuffer(msg.data, np.uint8, msg.step * msg.height).reshape(msg.height, msg.step)
    kind = kind.newbyteorder('>' if msg.is_bigendian else '<')
    depth_m = np.ascontiguousarray(data[:, :row_bytes]).view(kind).astype(np.float32)
    if kind.kind == 'u':
        depth_m *= np.float32(0.001)
        depth_m[depth_m == 0] = np.nan
    return depth_m


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Raise ValueError for a picture without pixels or with more than `max_pixels`."""
    if not (width > 0 and height > 0):
        raise ValueError(
            f'a picture has at least one pixel, got {width} x {height}; the camera driver fills '
            'the message wrongly'
        )
    if width * height > max_pixels:
        raise ValueError(
            f'the picture has {width} x {height} pixels, more than max_pixels = {max_pixels}; '
            'raise that parameter if the camera is really this large'
        )


def _layout(encoding: str) -> tuple[int, int, int | None]:
    if encoding in ENCODINGS:
        return ENCODINGS[encoding]
    hint = f'choose one of: {", ".join(ENCODINGS)}'
    if encoding in _NOT_PICTURES:
        hint = "it is a depth image, not a picture; a 16-bit grey picture is called 'mono16'"
    raise ValueError(f"no picture has the encoding '{encoding}'; {hint}")


def _rows(msg: Any) -> tuple[int, int]:
    """Return how many rows of `step` bytes the data has, and what the width must divide by."""
    if msg.encoding == 'nv21':  # a plane of brightness, then one of colour at half the height
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
