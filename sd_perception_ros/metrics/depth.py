"""How good relative depth and disparity are: the protocol of MiDaS, Marigold and GenPercept."""

from __future__ import annotations

from collections.abc import Sequence
import math

import numpy as np
from numpy.typing import NDArray

from sd_perception_ros.types import Float, Sample

Bool = NDArray[np.bool_]

FIGURES = ('abs_rel', 'delta1', 'delta2', 'delta3', 'rmse_m', 'log10')
# Where a sample brings no range of its own. Outdoors 80 m is the end of the usual protocols.
RANGE_M = (1e-3, 80.0)
# Fitted disparity below this is behind the camera or nowhere; the protocol raises it to this.
LEAST_PER_M = 1e-3


def fitted(values: Float, truth: Float, valid: Bool) -> Float:
    """
    Fit an affine-invariant map to the truth with the image's own least-squares scale and shift.

    It needs the truth, so it serves to measure and never to publish.

    :param values: (H, W) relative depth or disparity.
    :param truth: (H, W) metres or 1 / metres, read only where valid.
    :param valid: (H, W) bool, at least two pixels.
    """
    x, y = values[valid].astype(np.float64), truth[valid].astype(np.float64)
    variance = x.var()
    scale = ((x - x.mean()) * (y - y.mean())).mean() / variance if variance > 1e-12 else 0.0
    found: Float = (scale * values + (y.mean() - scale * x.mean())).astype(np.float32)
    return found


def measure_affine(values: Float, sample: Sample, inverse: bool = False) -> Float:
    """
    Fit relative depth or disparity to one image's truth and return its errors.

    The fit of a disparity is made in 1 / depth. Fitted depth is clipped to the range of the
    protocol, truth out of it does not count.

    :param values: (H, W) relative depth, or disparity where `inverse`.
    :param sample: its `depth_m`, and `range_m` if it is there.
    :returns: (1, 6) float32 in the order of `FIGURES`; (0, 6) with fewer than two known pixels.
    """
    depth_m = sample['depth_m'][0, 0].numpy()
    near_m, far_m = sample['range_m'][0].tolist() if 'range_m' in sample else RANGE_M
    valid = np.isfinite(depth_m) & (depth_m > near_m) & (depth_m < far_m)
    if valid.sum() < 2:
        return np.empty((0, len(FIGURES)), np.float32)
    if inverse:
        per_m = np.where(valid, 1 / np.where(valid, depth_m, 1), 0).astype(np.float32)
        # Zeros, what is cut off at the far end, have no say in the fit: so the protocol.
        answered = valid & (values > 0)
        fit = answered if answered.sum() > 1 else valid
        found_m = (1 / np.maximum(fitted(values, per_m, fit), LEAST_PER_M)).astype(np.float32)
    else:
        found_m = fitted(values, depth_m, valid)
    errors = depth_errors(np.clip(found_m, near_m, far_m), depth_m, valid)
    return np.array([[errors[name] for name in FIGURES]], np.float32)


def depth_errors(predicted_m: Float, depth_m: Float, valid: Bool) -> dict[str, float]:
    """
    Return the figures of one image over its valid pixels.

    `abs_rel` is the mean of error / truth, `delta1` to `delta3` the shares of pixels within a
    factor of 1.25, 1.25 ** 2 and 1.25 ** 3, `rmse_m` in metres, `log10` the mean difference of
    decimal logarithms (Eigen et al., arXiv 1406.2283).

    :param predicted_m: (H, W) metres, positive where valid.
    :param depth_m: (H, W) metres, positive where valid.
    """
    predicted, truth = predicted_m[valid].astype(np.float64), depth_m[valid].astype(np.float64)
    ratio = np.maximum(predicted / truth, truth / predicted)
    return {
        'abs_rel': float((np.abs(predicted - truth) / truth).mean()),
        **{f'delta{power}': float((ratio < 1.25**power).mean()) for power in (1, 2, 3)},
        'rmse_m': float(np.sqrt(np.square(predicted - truth).mean())),
        'log10': float(np.log10(ratio).mean()),
    }


def mean_depth_errors(measured: Sequence[Float]) -> dict[str, float]:
    """Return the means over images of the rows that `measure_affine` gives; NaN of no image."""
    rows = np.concatenate(measured).astype(np.float64)
    means = rows.mean(0).tolist() if len(rows) else [math.nan] * len(FIGURES)
    return dict(zip(FIGURES, means, strict=True))
