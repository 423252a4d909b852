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

from sd_perception_ros import jpeg
from sd_perception_ros.image_encodings import (
    BitDepth,
    check_size,
    convert,
    DEPTH_ENCODINGS,
    ENCODINGS,
    image_to_depth,
    image_to_rgb,
    image_type,
    MAX_PIXELS,
    millimetres_to_metres,
    refusal,
)
from sd_perception_ros.types import Float, UInt8

# Pixels as stored: 8 or 16 bits, one channel or BGR.
_COLOUR = cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR | cv2.IMREAD_IGNORE_ORIENTATION
_DEPTH_TYPES = ('16UC1',)  # 32FC1 is no PNG
# compressedDepth: 4 bytes of format, then two float32 of the quantisation, then the PNG.
_COMPRESSED_DEPTH_HEADER = struct.Struct('<4xff')


def compressed_to_rgb(
    msg: Any, max_pixels: int = MAX_PIXELS, bit_depth: BitDepth | None = None
) -> UInt8:
    """
    Decode a colour or grey CompressedImage: JPEG, PNG, WebP and others that OpenCV reads.

    The field `format`, as image_transport writes it, describes the image: a Bayer mosaic
    ('bayer_rggb8; jpeg compressed '), colours in RGB order ('rgb8; jpeg compressed rgb8'), or
    depth, which is refused. The EXIF orientation is ignored: camera_info describes the pixels as
    stored.

    :param bit_depth: range of the camera's 16-bit values so far; None: that of this image.
    :returns: (H, W, 3) uint8 RGB.
    :raises ValueError: the data is not an image, is damaged or too large, or is depth.
    """
    if 'compressedDepth' in msg.format:
        raise ValueError(f"expected a colour image, got a depth image ('{msg.format}')")
    encoding, in_rgb_order = _read_format(msg.format)
    if encoding not in ENCODINGS and image_type(encoding):
        raise ValueError(f"{refusal(encoding)} (format '{msg.format}')")
    data = bytes(msg.data)
    _check_compressed_size(data, msg.format, max_pixels)
    pixels = _decode(data, _COLOUR, msg.format)
    check_size(pixels.shape[1], pixels.shape[0], max_pixels)
    if pixels.dtype == np.uint16:
        pixels = (bit_depth or BitDepth()).to_8_bits(pixels)
    elif pixels.dtype != np.uint8:
        raise ValueError(
            f"expected an image with 8 or 16 bits ('{msg.format}'), got {pixels.dtype} values"
        )
    if pixels.ndim == 2:
        mosaic = encoding.startswith('bayer_') and encoding in ENCODINGS
        return convert(pixels, ENCODINGS[encoding if mosaic else 'mono8'].conversion, encoding)
    return convert(pixels, None if in_rgb_order else cv2.COLOR_BGR2RGB, encoding)


def rgb_from_message(
    msg: Any, max_pixels: int = MAX_PIXELS, bit_depth: BitDepth | None = None
) -> UInt8:
    """
    Convert a colour Image or CompressedImage: (H, W, 3) uint8 RGB.

    :raises ValueError: see `image_to_rgb` and `compressed_to_rgb`.
    """
    if _is_compressed(msg):
        return compressed_to_rgb(msg, max_pixels, bit_depth)
    return image_to_rgb(msg, max_pixels, bit_depth)


def is_depth(msg: Any) -> bool:
    """Return whether an Image or CompressedImage holds depth."""
    if _is_compressed(msg):
        return 'compressedDepth' in msg.format or _read_format(msg.format)[0] in _DEPTH_TYPES
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


def _read_format(format_: str) -> tuple[str, bool]:
    """
    Return the encoding before the compression, '' if unknown, and whether the order is RGB.

    'rgb8; jpeg compressed bgr8' is the usual order in a JPEG. 'compressed rgb8' means that the
    driver passed RGB to a compressor that expects BGR.
    """
    encoding, separator, compression = format_.partition(';')
    return (encoding.strip() if separator else ''), 'compressed rgb' in compression


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
    if data.startswith(jpeg.SIGNATURE):
        return jpeg.decode(data)
    # WebP has no checksum. Intact data has no long run of one value; lost data often has one.
    if data[8:12] == b'WEBP' and len(data) > 99 and data[-64:].count(data[-1:]) == 64:
        raise ValueError('the WebP image is damaged: its last 64 bytes are equal')
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
    with_header = 'compressedDepth' in msg.format
    is_png = 'rvl' not in msg.format.lower() and ('png' in msg.format or with_header)
    if not is_png or not is_depth(msg):
        raise ValueError(
            f"expected depth as a PNG (compressedDepth png), got '{msg.format}'; record the raw "
            'depth topic, or set the transport to png'
        )
    factor, offset, png = 0.0, 0.0, data
    if with_header:  # without it: '16UC1; png compressed ' of compressed_image_transport
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
