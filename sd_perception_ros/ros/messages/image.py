"""Image messages from arrays, and arrays in the types that message setters copy fast."""

from __future__ import annotations

import array
import sys
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from sd_perception_ros.types import Float, UInt8

# Type and number of channels.
_ENCODINGS = {
    'rgb8': (np.uint8, 3),
    'mono8': (np.uint8, 1),
    '32FC1': (np.float32, 1),
    '32FC3': (np.float32, 3),
    '16UC1': (np.uint16, 1),
}


def millimetres(depth_m: Float) -> NDArray[np.uint16]:
    """Convert depth to millimetres; 0 where it is not finite or not below 65.535 m."""
    valid = np.isfinite(depth_m) & (depth_m < 65.535)
    return np.where(valid, np.round(depth_m * 1000), 0).astype(np.uint16)


def image_message(values: NDArray[Any], encoding: str, header: Header) -> Image:
    """
    Make an image message.

    :param values: (H, W) or (H, W, C) of the encoding's type.
    :param encoding: rgb8, mono8, 16UC1, 32FC1 or 32FC3.
    :raises ValueError: the array does not fit the encoding.
    """
    dtype, channels = _ENCODINGS[encoding]
    value_channels = 1 if values.ndim == 2 else values.shape[-1]
    if values.dtype != dtype or value_channels != channels or values.ndim not in (2, 3):
        raise ValueError(
            f'{encoding} needs a (H, W, {channels}) {np.dtype(dtype)} array, got {values.shape} '
            f'{values.dtype}'
        )
    msg = Image(header=header, encoding=encoding)
    msg.height, msg.width = values.shape[:2]
    msg.step = msg.width * channels * values.itemsize
    msg.is_bigendian = int(sys.byteorder == 'big')
    msg.data = byte_array(values)
    return msg


def to_mono8(values: Float) -> UInt8:
    """Convert (H, W) float32 0..1 to 0..255, rounded; values outside are clipped."""
    return np.asarray(cv2.convertScaleAbs(np.maximum(values, 0), alpha=255), np.uint8)


def byte_array(values: NDArray[Any]) -> array.array[int]:
    """Copy an array's memory into an array.array: message setters take it without conversion."""
    # Setters convert a numpy array through a Python list: 500 times slower.
    data = array.array('B')
    data.frombytes(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)
    return data


def float_array(values: Float) -> array.array[float]:
    """Copy float32 values into an array.array: message setters take it without conversion."""
    data = array.array('f')
    data.frombytes(np.ascontiguousarray(values, np.float32).reshape(-1).view(np.uint8).data)
    return data
