"""How good a prediction is: the field's standard measures, on numpy arrays."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float32]
Bool = NDArray[np.bool_]


def aligned_depth_m(values: Float, depth_m: Float, valid: Bool) -> Float:
    """
    Fit relative depth to metres with the image's own least-squares scale and shift.

    This is the protocol of affine-invariant depth (MiDaS, Marigold): it needs the truth, so it
    serves to measure and never to publish.

    :param values: (H, W) relative depth.
    :param depth_m: (H, W) metres, read only where valid.
    :param valid: (H, W) bool, at least two pixels.
    """
    x, y = values[valid].astype(np.float64), depth_m[valid].astype(np.float64)
    spread = x.var()
    scale = ((x - x.mean()) * (y - y.mean())).mean() / spread if spread > 1e-12 else 0.0
    fitted: Float = (scale * values + (y.mean() - scale * x.mean())).astype(np.float32)
    return fitted


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
