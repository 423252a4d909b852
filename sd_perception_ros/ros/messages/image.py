"""Arrays to image messages, and arrays as the data of any message."""

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

_OUTPUTS = {'rgb8': (np.uint8, 3), 'mono8': (np.uint8, 1), '32FC1': (np.float32, 1)}
_OUTPUTS |= {'32FC3': (np.float32, 3), '16UC1': (np.uint16, 1)}


def millimetres(depth_m: Float) -> NDArray[np.uint16]:
    """Return whole millimetres, and 0 where depth is not finite or beyond 65.535 m."""
    known = np.isfinite(depth_m) & (depth_m < 65.535)
    return np.where(known, np.round(depth_m * 1000), 0).astype(np.uint16)


def image_message(values: NDArray[Any], encoding: str, header: Header) -> Image:
    """
    Put an array into an image message.

    :param values: (H, W) or (H, W, C) of the encoding's type: rgb8, mono8, 16UC1, 32FC1 or
        32FC3.
    :raises ValueError: an array that does not fit the encoding.
    """
    dtype, channels = _OUTPUTS[encoding]
    found = 1 if values.ndim == 2 else values.shape[-1]
    if values.dtype != dtype or found != channels or values.ndim not in (2, 3):
        raise ValueError(
            f'{encoding} takes (H, W, {channels}) {np.dtype(dtype)}, got {values.shape} '
            f'{values.dtype}'
        )
    msg = Image(header=header, encoding=encoding)
    msg.height, msg.width = values.shape[:2]
    msg.step = msg.width * channels * values.itemsize
    msg.is_bigendian = int(sys.byteorder == 'big')
    msg.data = bytes_of(values)
    return msg


def shares_to_levels(shares: Float) -> UInt8:
    """Map (H, W) float32 0..1 to the nearest of 256 levels; values outside are clipped."""
    return np.asarray(cv2.convertScaleAbs(np.maximum(shares, 0), alpha=255), np.uint8)


def bytes_of(values: NDArray[Any]) -> array.array[int]:
    """Copy an array's memory into the type that message setters take as it is."""
    # Assigning the numpy array itself goes through a Python list: 500 times slower.
    data = array.array('B')
    data.frombytes(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)
    return data


def floats_of(values: Float) -> array.array[float]:
    """Copy float32 values into the type that message setters take as it is."""
    data = array.array('f')
    data.frombytes(np.ascontiguousarray(values, np.float32).reshape(-1).view(np.uint8).data)
    return data
