"""Metrics of surface normals: angular errors of the pixels of all images together."""

from __future__ import annotations

from collections.abc import Sequence
import math

import numpy as np

from sd_perception_ros.types import Float

LIMITS_DEG = (5.0, 7.5, 11.25, 22.5, 30.0)
# A power of two, so that every limit lies on the edge of a bin and the counts are exact.
BINS_PER_DEG = 32
BINS = 180 * BINS_PER_DEG + 1


def angles_deg(predicted: Float, normals: Float) -> Float:
    """
    Return the angle between unit vectors, degrees.

    :param predicted: (N, 3) unit vectors; (0, 0, 0) counts as 90 degrees.
    :param normals: (N, 3) unit vectors.
    """
    cosine = np.clip((predicted.astype(np.float64) * normals).sum(-1), -1, 1)
    angles: Float = np.degrees(np.arccos(cosine)).astype(np.float32)
    return angles


def angle_counts(angles: Float) -> Float:
    """
    Return the sum and the histogram of the angles of one image, the input of `angle_summary`.

    :param angles: (N,) degrees.
    :returns: (1, 1 + 5761) float32: their sum, and the number in each bin of 1/32 degree.
    """
    counts = np.bincount((angles * BINS_PER_DEG).astype(np.int64), minlength=BINS)
    row: Float = np.concatenate([[angles.sum(dtype=np.float64)], counts]).astype(np.float32)
    return row[None]


def angle_summary(measured: Sequence[Float]) -> dict[str, float]:
    """
    Return mean and median in degrees, and the shares of pixels under 5, 7.5, 11.25, 22.5 and 30.

    :param measured: rows of `angle_counts`; the pixels of all images are pooled. The median is
        exact to 1/32 degree, the others are exact; all are NaN without pixels.
    """
    sums = np.concatenate(measured).sum(0, dtype=np.float64)
    total, rest = sums[0], sums[1:]
    below = np.cumsum(rest)  # pixels up to the end of each bin
    count = below[-1]
    if not count:
        names = ('mean_deg', 'median_deg', *(f'under_{limit:g}' for limit in LIMITS_DEG))
        return dict.fromkeys(names, math.nan)
    middle = int(np.searchsorted(below, count / 2))
    share = (count / 2 - (below[middle] - rest[middle])) / rest[middle]
    return {
        'mean_deg': float(total / count),
        'median_deg': float((middle + share) / BINS_PER_DEG),
        **{
            f'under_{limit:g}': float(below[int(limit * BINS_PER_DEG) - 1] / count)
            for limit in LIMITS_DEG
        },
    }
