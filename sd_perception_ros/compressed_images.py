"""
Conversion of colour and depth messages of both kinds, raw and compressed, to arrays.

A CompressedImage is decoded here; a raw Image is converted by `image_encodings`.
"""

from __future__ import annotations

import io
import struct
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
import PIL.Image

from sd_perception_ros.image_encodings import (
    check_size,
    DEPTH_ENCODINGS,
    image_to_depth,
    image_to_rgb,
    MAX_PIXELS,
    millimetres_to_metres,
)
from sd_perception_ros.types import Float, UInt8

# compressedDepth: 4 bytes of format, then two float32 of the quantisation, then the PNG.
_COMPRESSED_DEPTH_HEADER = struct.Struct('<4xff')


def compressed_to_rgb(msg: Any, max_pixels: int = MAX_PIXELS) -> UInt8:
    """
    Decode a JPEG or PNG message: (H, W, 3) uint8 RGB.

    The EXIF orientation is ignored: camera_info describes the pixels as stored.

    :raises ValueError: the data is no image, damaged or too large, or is compressed depth.
    """
    if 'compressedDepth' in msg.format:
        raise ValueError(f"expected a colour image, got a depth image ('{msg.format}')")
    data = bytes(msg.data)
    _check_compressed_size(data, msg.format, max_pixels)
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    bgr = _decode(data, flags, msg.format)
    check_size(bgr.shape[1], bgr.shape[0], max_pixels)
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)


def rgb_from_message(msg: Any, max_pixels: int = MAX_PIXELS) -> UInt8:
    """
    Convert a colour Image or CompressedImage: (H, W, 3) uint8 RGB.

    :raises ValueError: see `image_to_rgb` and `compressed_to_rgb`.
    """
    convert = compressed_to_rgb if _is_compressed(msg) else image_to_rgb
    return convert(msg, max_pixels)


def is_depth(msg: Any) -> bool:
    """Return whether an Image or CompressedImage holds depth."""
    if _is_compressed(msg):
        return 'compressedDepth' in msg.format
    return msg.encoding in DEPTH_ENCODINGS


def depth_from_message(msg: Any, max_pixels: int = MAX_PIXELS) -> Float:
    """
    Convert a depth Image (REP 118), or a CompressedImage of compressed_depth_image_transport.

    :param max_pixels: larger images are refused before memory is allocated.
    :returns: (H, W) float32 metres, NaN where unknown.
    :raises ValueError: another encoding, damaged data, or inconsistent sizes.
    """
    if _is_compressed(msg):
        return _compressed_depth(msg, max_pixels)
    return image_to_depth(msg, max_pixels)


def _is_compressed(msg: Any) -> bool:
    return hasattr(msg, 'format')


def _check_compressed_size(data: bytes, format_: str, max_pixels: int) -> None:
    """Refuse a JPEG or PNG that is too large by its header, before it is decoded."""
    try:
        with PIL.Image.open(io.BytesIO(data)) as header:
            check_size(*header.size, max_pixels)
    except (OSError, SyntaxError, PIL.Image.DecompressionBombError) as error:
        raise ValueError(
            f'expected JPEG or PNG data, got {len(data)} bytes that are neither '
            f"(format '{format_}'): {type(error).__name__}"
        ) from None


def _decode(data: bytes, flags: int, format_: str) -> NDArray[Any]:
    try:
        pixels: Any = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise ValueError(f'the compressed image cannot be decoded: {error.err}') from None
    if pixels is None:
        raise ValueError(
            f"the compressed image ('{format_}', {len(data)} bytes) cannot be decoded; "
            'it is damaged or truncated'
        )
    return np.asarray(pixels)


def _compressed_depth(msg: Any, max_pixels: int) -> Float:
    """Convert a message of compressed_depth_image_transport: a header, then a 16-bit PNG."""
    data = bytes(msg.data)
    if 'compressedDepth' not in msg.format or 'rvl' in msg.format.lower():
        raise ValueError(
            f"expected depth as a PNG (compressedDepth png), got '{msg.format}'; record the raw "
            'depth topic, or set the transport to png'
        )
    if len(data) < _COMPRESSED_DEPTH_HEADER.size:
        raise ValueError(f'expected compressed depth, got {len(data)} bytes; it is truncated')
    factor, offset = _COMPRESSED_DEPTH_HEADER.unpack_from(data)
    png = data[_COMPRESSED_DEPTH_HEADER.size :]
    _check_compressed_size(png, msg.format, max_pixels)
    levels = _decode(png, cv2.IMREAD_UNCHANGED, msg.format)
    if levels.dtype != np.uint16 or levels.ndim != 2:
        raise ValueError(
            f"expected depth as a 16-bit PNG with one channel ('{msg.format}'), got "
            f'{levels.dtype} of shape {levels.shape}'
        )
    if not msg.format.startswith('32FC1'):
        return millimetres_to_metres(levels)
    # Metric depth is stored as quantized inverse depth; level 0 is unknown.
    inverse = levels.astype(np.float32)
    with np.errstate(divide='ignore'):
        depth_m = np.float32(factor) / (inverse - np.float32(offset))
    return np.where(levels > 0, depth_m, np.float32(np.nan))
