"""
Conversion of image messages to arrays: colour to RGB, depth to metres.

Used by the node and by the reader of bags (`data/formats/rosbag.py`). The functions read the
fields of sensor_msgs/Image and sensor_msgs/CompressedImage without importing ROS: messages may
come from rclpy or from the package rosbags.

cv_bridge is not used: its builds differ for 16-bit, padded and malformed images, and its copy of a
message takes longer than the conversion here.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from sd_perception_ros.types import Float, UInt8

MAX_PIXELS = 50_000_000
# Share of 16-bit values that may lie beyond a range as damaged pixels.
_DAMAGED = 1e-4


class Encoding(NamedTuple):
    """
    Memory layout of an encoding of sensor_msgs/Image.

    :ivar item_bytes: bytes of a value.
    :ivar channels: values of a pixel; 1 also for planar encodings.
    :ivar conversion: OpenCV's conversion to RGB; None: it is RGB.
    :ivar chroma: data behind the luma plane, as a fraction of it.
    :ivar even: factors that width and height must have.
    """

    item_bytes: int
    channels: int
    conversion: int | None
    chroma: float = 0.0
    even: tuple[int, int] = (1, 1)


# OpenCV names a Bayer pattern by its second row, ROS by its first. 8UC3 and the like have OpenCV's
# order of channels.
ENCODINGS: dict[str, Encoding] = {
    'rgb8': Encoding(1, 3, None),
    'bgr8': Encoding(1, 3, cv2.COLOR_BGR2RGB),
    'rgba8': Encoding(1, 4, cv2.COLOR_RGBA2RGB),
    'bgra8': Encoding(1, 4, cv2.COLOR_BGRA2RGB),
    'mono8': Encoding(1, 1, cv2.COLOR_GRAY2RGB),
    '8UC1': Encoding(1, 1, cv2.COLOR_GRAY2RGB),
    '8UC3': Encoding(1, 3, cv2.COLOR_BGR2RGB),
    '8UC4': Encoding(1, 4, cv2.COLOR_BGRA2RGB),
    'mono16': Encoding(2, 1, cv2.COLOR_GRAY2RGB),
    'rgb16': Encoding(2, 3, None),
    'bgr16': Encoding(2, 3, cv2.COLOR_BGR2RGB),
    'rgba16': Encoding(2, 4, None),  # alpha of 16 bits is left out before the conversion
    'bgra16': Encoding(2, 4, cv2.COLOR_BGR2RGB),
    '16UC3': Encoding(2, 3, cv2.COLOR_BGR2RGB),
    '16UC4': Encoding(2, 4, cv2.COLOR_BGR2RGB),
    'bayer_rggb8': Encoding(1, 1, cv2.COLOR_BayerBG2RGB),
    'bayer_bggr8': Encoding(1, 1, cv2.COLOR_BayerRG2RGB),
    'bayer_gbrg8': Encoding(1, 1, cv2.COLOR_BayerGR2RGB),
    'bayer_grbg8': Encoding(1, 1, cv2.COLOR_BayerGB2RGB),
    'bayer_rggb16': Encoding(2, 1, cv2.COLOR_BayerBG2RGB),
    'bayer_bggr16': Encoding(2, 1, cv2.COLOR_BayerRG2RGB),
    'bayer_gbrg16': Encoding(2, 1, cv2.COLOR_BayerGR2RGB),
    'bayer_grbg16': Encoding(2, 1, cv2.COLOR_BayerGB2RGB),
    'yuv422': Encoding(1, 2, cv2.COLOR_YUV2RGB_UYVY, even=(2, 1)),
    'uyvy': Encoding(1, 2, cv2.COLOR_YUV2RGB_UYVY, even=(2, 1)),
    'yuv422_yuy2': Encoding(1, 2, cv2.COLOR_YUV2RGB_YUY2, even=(2, 1)),
    'yuyv': Encoding(1, 2, cv2.COLOR_YUV2RGB_YUY2, even=(2, 1)),
    # A luma plane of height rows of step bytes, then the chroma plane.
    'nv12': Encoding(1, 1, cv2.COLOR_YUV2RGB_NV12, 0.5, (2, 2)),
    'nv21': Encoding(1, 1, cv2.COLOR_YUV2RGB_NV21, 0.5, (2, 2)),
    'nv24': Encoding(1, 1, cv2.COLOR_YUV2RGB_UYVY, 2.0),
}
# OpenCV's types, listed by image_encodings.hpp, too.
_TYPE = re.compile(r'(8|16|32|64)[USF]C[1-4]')
DEPTH_ENCODINGS: dict[str, np.dtype[Any]] = {
    '32FC1': np.dtype('f4'),
    '16UC1': np.dtype('u2'),
    'mono16': np.dtype('u2'),
}


class BitDepth:
    """
    Significant bits of a camera's 16-bit values: 8, 10, 12, 14 or 16.

    Drivers send the values of 10-bit and 12-bit sensors in 16-bit encodings without a scale. The
    brightest image so far shows it: the number grows, and never shrinks, so that the brightness
    of a camera's images does not flicker.

    :ivar bits: 0 before the first image with 16-bit values.
    """

    def __init__(self) -> None:
        self.bits = 0

    def to_8_bits(self, values: NDArray[np.uint16]) -> UInt8:
        """
        Convert values of any shape to 0..255, saturated.

        A few values beyond the range are damaged pixels and count for nothing.
        """
        highest = int(values.max())
        while self.bits < 16:
            if self.bits and (
                highest >> self.bits == 0
                or np.count_nonzero(values >> self.bits) <= values.size * _DAMAGED
            ):
                break
            self.bits = max(self.bits + 2, 8)
        levels = values >> (self.bits - 8)
        if highest >> self.bits:
            levels = np.minimum(levels, 255)
        return np.asarray(levels, np.uint8)


def image_to_rgb(
    msg: Any, max_pixels: int = MAX_PIXELS, bit_depth: BitDepth | None = None
) -> UInt8:
    """
    Convert a colour or grey Image message to RGB.

    The data must have exactly the size that sensor_msgs/Image documents, step x height bytes (nv12
    and nv21: half of that more for colour, nv24: twice). More data means a header that does not
    describe it: a sheared image.

    :param max_pixels: larger images are refused before memory is allocated.
    :param bit_depth: range of the camera's 16-bit values so far; None: that of this image.
    :returns: (H, W, 3) uint8 RGB; for rgb8 without padding a view of the message's memory.
    :raises ValueError: another encoding, or inconsistent sizes.
    """
    check_size(msg.width, msg.height, max_pixels)
    if msg.encoding not in ENCODINGS:
        raise ValueError(refusal(msg.encoding))
    encoding = ENCODINGS[msg.encoding]
    if msg.width % encoding.even[0] or msg.height % encoding.even[1]:
        raise ValueError(
            f'{msg.encoding} has one colour for two pixels, so its size must be even, got '
            f'{msg.width} x {msg.height}'
        )
    row_bytes = msg.width * encoding.channels * encoding.item_bytes
    luma, chroma = _planes(msg, row_bytes, encoding.chroma)
    if chroma is None:
        pixels = luma
    elif encoding.chroma < 1:  # nv12, nv21: chroma rows of half the number
        pixels = np.concatenate([luma, chroma[:, : msg.width]])
    else:  # nv24: as UYVY of two equal pixels each
        u, v = chroma[:, 0 : 2 * msg.width : 2], chroma[:, 1 : 2 * msg.width : 2]
        pixels = np.stack([u, luma, v, luma], axis=-1)
        rgb = convert(pixels.reshape(msg.height, -1, 2), encoding.conversion, msg.encoding)
        return np.ascontiguousarray(rgb[:, ::2])
    if encoding.item_bytes == 2:
        values = pixels.view('>u2' if msg.is_bigendian else '<u2')
        values = values.reshape(msg.height, msg.width, encoding.channels)[..., :3]
        pixels = (bit_depth or BitDepth()).to_8_bits(values)
    else:
        pixels = pixels.reshape(len(pixels), msg.width, encoding.channels)
    return convert(pixels, encoding.conversion, msg.encoding)


def refusal(encoding: str) -> str:
    """Return why an encoding cannot be a colour or grey image, and what can."""
    hint = f'choose one of: {", ".join(ENCODINGS)}'
    if encoding in ('16UC1', '32FC1', '16SC1', '64FC1'):
        hint = "this is a depth image; a 16-bit grey image is called 'mono16'"
    elif image_type(encoding):
        kind, channels = encoding[-3], encoding[-1]
        if channels == '2':
            hint = f'two channels are no colour; {hint}'
        elif kind != 'U':
            kinds = {'S': 'signed', 'F': 'floating-point'}
            hint = f'{kinds[kind]} values have no fixed range from black to white; {hint}'
    return f"expected a colour or grey image, got the encoding '{encoding}'; {hint}"


def image_type(encoding: str) -> bool:
    """Return whether an encoding is one of OpenCV's types, such as 16SC1 or 32FC3."""
    return _TYPE.fullmatch(encoding) is not None


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
    data, _ = _planes(msg, msg.width * kind.itemsize)
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


def _planes(msg: Any, row_bytes: int, chroma: float = 0.0) -> tuple[UInt8, UInt8 | None]:
    """
    Return the data of an Image: (height, row_bytes) uint8 without padding, and the chroma plane.

    :param row_bytes: bytes of a row without padding.
    :param chroma: size of the chroma plane as a fraction of the first plane; its rows keep their
        padding. 0: there is none.
    """
    if msg.step < row_bytes:
        raise ValueError(
            f'step must be at least {row_bytes} bytes for a row of {msg.width} {msg.encoding} '
            f'pixels, got {msg.step}; the camera driver sends a malformed message'
        )
    luma_bytes = msg.step * msg.height
    size = luma_bytes + round(luma_bytes * chroma)
    if size != len(msg.data):
        wrong = (
            'the message is truncated'
            if len(msg.data) < size
            else 'width, height or step do not describe the data'
        )
        raise ValueError(
            f'data must hold {size} bytes (step {msg.step} x {msg.height} rows'
            f'{" and colour" if chroma else ""}), got {len(msg.data)}; {wrong}'
        )
    data = np.frombuffer(msg.data, np.uint8)
    rows = data[:luma_bytes].reshape(msg.height, msg.step)
    luma = np.ascontiguousarray(rows[:, :row_bytes])
    if not chroma:
        return luma, None
    # Rows of half the number (nv12, nv21), or of twice the bytes (nv24).
    return luma, data[luma_bytes:].reshape(-1, msg.step * (1 if chroma < 1 else 2))


def millimetres_to_metres(millimetres: NDArray[np.uint16]) -> Float:
    """Convert (H, W) millimetres to float32 metres; 0 becomes NaN."""
    depth_m = millimetres.astype(np.float32) / np.float32(1000)
    depth_m[millimetres == 0] = np.nan
    return depth_m


def convert(pixels: UInt8, conversion: int | None, encoding: str) -> UInt8:
    """Convert pixels to RGB with one of OpenCV's conversions; None: they are RGB."""
    try:
        rgb = pixels if conversion is None else cv2.cvtColor(pixels, conversion)
    except cv2.error as error:
        raise ValueError(
            f'{pixels.shape[1]} x {pixels.shape[0]} {encoding} pixels cannot be converted to '
            f'RGB: {error.err}'
        ) from None
    return np.asarray(rgb, np.uint8)
