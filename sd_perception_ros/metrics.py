"""How good a prediction is: the field's standard measures, on numpy arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float32]
Bool = NDArray[np.bool_]


def fitted(values: Float, truth: Float, valid: Bool) -> Float:
    """
    Fit an affine-invariant map to the truth with the image's own least-squares scale and shift.

    This is the protocol of MiDaS and Marigold: it needs the truth, so it serves to measure and
    never to publish.

    :param values: (H, W) relative depth or disparity.
    :param truth: (H, W) metres or 1 / metres, read only where valid.
    :param valid: (H, W) bool, at least two pixels.
    """
    x, y = values[valid].astype(np.float64), truth[valid].astype(np.float64)
    variance = x.var()
    scale = ((x - x.mean()) * (y - y.mean())).mean() / variance if variance > 1e-12 else 0.0
    found: Float = (scale * values + (y.mean() - scale * x.mean())).astype(np.float32)
    return found


def depth_errors(predicted_m: Float, depth_m: Float, valid: Bool) -> dict[str, float]:
    """
    Return AbsRel, delta1 (share within a factor of 1.25) and RMSE in metres over valid pixels.

    Predictions are raised to 1 mm: a fit may put near pixels behind the camera.
    """
    predicted = np.maximum(predicted_m[valid].astype(np.float64), 1e-3)
    truth = depth_m[valid].astype(np.float64)
    ratio = np.maximum(predicted / truth, truth / predicted)
    return {
        'abs_rel': float((np.abs(predicted - truth) / truth).mean()),
        'delta1': float((ratio < 1.25).mean()),
        'rmse_m': float(np.sqrt(np.square(predicted - truth).mean())),
    }


def mean_depth_errors(measured: Sequence[Float]) -> dict[str, float]:
    """Return the means over images of the rows that `depth_errors` gives."""
    rows = np.concatenate(measured)
    return dict(zip(('abs_rel', 'delta1', 'rmse_m'), rows.mean(0).tolist(), strict=True))


def angles_deg(predicted: Float, normals: Float) -> Float:
    """
    Return the angle between unit vectors, degrees.

    :param predicted: (N, 3) unit vectors; (0, 0, 0) counts as 90 degrees.
    :param normals: (N, 3) unit vectors.
    """
    cosine = np.clip((predicted.astype(np.float64) * normals).sum(-1), -1, 1)
    angles: Float = np.degrees(np.arccos(cosine)).astype(np.float32)
    return angles


def angle_summary(angles: Float) -> dict[str, float]:
    """Return mean and median in degrees, and the share of pixels under 11.25, 22.5 and 30."""
    return {
        'mean_deg': float(angles.mean()),
        'median_deg': float(np.median(angles)),
        **{f'under_{limit:g}': float((angles < limit).mean()) for limit in (11.25, 22.5, 30.0)},
    }
