"""Metrics of relative depth and disparity: the protocol of MiDaS, Marigold and GenPercept."""

from __future__ import annotations

from collections.abc import Sequence
import math

import numpy as np
from numpy.typing import NDArray

from sd_perception_ros.types import Float, Sample

Bool = NDArray[np.bool_]

FIGURES = ('abs_rel', 'delta1', 'delta2', 'delta3', 'rmse_m', 'log10')
# For samples without `range_m`. Outdoors, the usual protocols end at 80 m.
RANGE_M = (1e-3, 80.0)
# Smaller fitted disparity (beyond 1 km, or negative) is raised to this by the protocol.
LEAST_PER_M = 1e-3


def fitted(values: Float, truth: Float, valid: Bool) -> Float:
    """
    Fit an affine-invariant map to the truth by least squares (scale and shift of each image).

    For evaluation only, as it uses the ground truth.

    :param values: (H, W) relative depth or disparity.
    :param truth: (H, W) metres or 1 / metres, read only where valid.
    :param valid: (H, W) bool, at least two pixels.
    """
    x, y = values[valid].astype(np.float64), truth[valid].astype(np.float64)
    variance = x.var()
    scale = ((x - x.mean()) * (y - y.mean())).mean() / variance if variance > 1e-12 else 0.0
    aligned: Float = (scale * values + (y.mean() - scale * x.mean())).astype(np.float32)
    return aligned


def measure_affine(values: Float, sample: Sample, inverse: bool = False) -> Float:
    """
    Fit relative depth or disparity to the truth of one image and return the errors.

    Disparity is fitted in 1 / depth. Fitted depth is clipped to the range of the protocol; ground
    truth outside of it is ignored.

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
        # The protocol excludes zeros (saturated far end) from the fit.
        not_saturated = valid & (values > 0)
        fit = not_saturated if not_saturated.sum() > 1 else valid
        fitted_m = (1 / np.maximum(fitted(values, per_m, fit), LEAST_PER_M)).astype(np.float32)
    else:
        fitted_m = fitted(values, depth_m, valid)
    errors = depth_errors(np.clip(fitted_m, near_m, far_m), depth_m, valid)
    return np.array([[errors[name] for name in FIGURES]], np.float32)


def depth_errors(predicted_m: Float, depth_m: Float, valid: Bool) -> dict[str, float]:
    """
    Return the metrics of one image over its valid pixels.

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
    """Return means over images of the rows of `measure_affine`; NaN without images."""
    rows = np.concatenate(measured).astype(np.float64)
    means = rows.mean(0).tolist() if len(rows) else [math.nan] * len(FIGURES)
    return dict(zip(FIGURES, means, strict=True))
