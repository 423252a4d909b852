"""Detection of images that are black, saturated, or of one colour."""

from __future__ import annotations

import cv2
import numpy as np

from sd_perception_ros.types import UInt8

# Levels of 0..255: at most this is black, at least that is saturated.
_BLACK, _WHITE = 8, 250
# Fraction of the pixels that must be black or saturated.
_MOST = 0.98
# Standard deviation in levels below which an image is of one colour.
_FLAT = 1.0
# Number of pixels that are read, approximately.
_SAMPLES = 5000


def exposure_problem(rgb: UInt8) -> str:
    """
    Return the exposure problem of an image; empty if there is none.

    :param rgb: (H, W, 3); about 5000 of its pixels are read.
    """
    stride = max(int((rgb.shape[0] * rgb.shape[1] / _SAMPLES) ** 0.5), 1)
    channels = np.ascontiguousarray(rgb[::stride, ::stride].reshape(-1, 3).T)
    count = channels.shape[1]
    if np.count_nonzero(channels.max(0) <= _BLACK) >= _MOST * count:
        return 'black'
    if np.count_nonzero(channels.min(0) >= _WHITE) >= _MOST * count:
        return 'saturated'
    if count > 1 and all(cv2.meanStdDev(channel)[1].item() < _FLAT for channel in channels):
        return 'of one colour'
    return ''
