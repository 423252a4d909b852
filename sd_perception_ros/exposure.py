"""Exposure problems: images that are black, saturated, or of one colour."""

from __future__ import annotations

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
    pixels = rgb[::stride, ::stride].reshape(-1, 3)
    if (pixels <= _BLACK).all(1).mean() >= _MOST:
        return 'black'
    if (pixels >= _WHITE).all(1).mean() >= _MOST:
        return 'saturated'
    if len(pixels) > 1 and np.std(pixels, axis=0, dtype=np.float32).max() < _FLAT:
        return 'of one colour'
    return ''
