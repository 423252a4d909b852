"""
Align relative depth with reference measurements: fit a scale and a shift, and check them.

Relative depth (or disparity) is correct up to a scale and a shift. A robust fit to pixels of known
depth finds both. Where the references are dense, a local fit refines them. A quarter of the
references is held out of the fits; if these disagree with the result, there is no metric depth.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
import math

import numpy as np
from numpy.typing import NDArray

from sd_perception_ros.config import check, option
from sd_perception_ros.metric_depth.references import References
from sd_perception_ros.metric_depth.robust_fit import cell_indices, local_lines, robust_line
from sd_perception_ros.metric_depth.scale import Alignment, reciprocal_if, ScaleShift
from sd_perception_ros.types import Float

Double = NDArray[np.float64]

# Every n-th reference is held out of all fits and checks them.
_HELD_OUT_STEP = 4
# Grid of image cells for the support.
_ROWS, _COLUMNS = 6, 8
# The 5 % and 95 % quantiles of the relative values must be this far apart to fit a scale.
_MIN_SPREAD = 0.05
_JUMPED = 'the scale jumped, and too few frames since then confirm the new one'
# With fewer references, one scale and shift serve the whole image.
_MIN_LOCAL_REFERENCES = 100


@dataclass(frozen=True)
class TrustLimits:
    """Limits of the fit's quality; metric depth is published only while all are kept."""

    tolerance: float = option(
        0.2,
        'A reference is an inlier if its relative depth error is below this',
        low=0.01,
        high=1.0,
    )
    min_references: int = option(
        40, 'Minimum number of pixels with known depth', low=8, high=100_000
    )
    min_inliers: float = option(0.5, 'Minimum fraction of inliers', low=0.0, high=1.0)
    max_residual: float = option(
        0.15, 'Maximum median relative depth error of the inliers', low=0.0, high=1.0
    )
    min_skill: float = option(
        0.2,
        'Minimum skill: 1 - error / error of the best constant depth',
        low=0.0,
        high=1.0,
    )
    min_support: float = option(
        0.06,
        'Minimum fraction of the 8 x 6 image cells that contain inliers',
        low=0.0,
        high=1.0,
    )

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        check(self)


@dataclass(frozen=True)
class Quality:
    """
    Agreement of the metric depth with held-out references.

    :ivar references: number of references, including those of the fit.
    :ivar inliers: fraction of the held-out references with a relative depth error below the
        tolerance.
    :ivar residual: median relative depth error of the inliers; NaN if there are none.
    :ivar skill: 1 - error / error of the best constant depth, with bounded errors: 1 for a perfect
        fit, about 0 for references that are unrelated to the image.
    :ivar support: fraction of the 8 x 6 image cells that contain inliers.
    :ivar problem: reason why there is no metric depth; empty if there is.
    """

    references: int = 0
    inliers: float = 0.0
    residual: float = math.nan
    skill: float = 0.0
    support: float = 0.0
    problem: str = ''


@dataclass(frozen=True)
class Fit:
    """
    Result of a fit to the references of one image.

    :ivar measured: scale and shift of this image alone, before the filter; None: no fit.
    :ivar alignment: scale and shift to apply; None: no metric depth.
    :ivar quality: quality of `alignment`, or the reason why there is none.
    """

    measured: ScaleShift | None
    alignment: Alignment | None
    quality: Quality


def align(
    relative: Float,
    references: References,
    inverse: bool,
    limits: TrustLimits,
    *,
    scale_filter: Callable[[ScaleShift], ScaleShift | None] | None = None,
    local: bool = False,
) -> Fit:
    """
    Fit scale and shift of one image to its references, and check them with held-out references.

    The global fit must pass before a local one is tried: a local fit could follow references of
    another moment, whatever the image shows.

    :param relative: (H, W) float32, 0..1.
    :param inverse: whether `relative` is disparity; scale and shift then give 1 / depth.
    :param scale_filter: filter over time: measured scale and shift -> those to use, or None to
        reject the measurement. It is called for fits within the limits; its output is checked with
        the same held-out references.
    :param local: let scale and shift vary over the image, if there are enough references and the
        held-out ones then agree better.
    """
    values = relative[references.rows, references.columns].astype(np.float64)
    # 0 and 1 are saturated: bounds, not values.
    inside = (values > 0) & (values < 1)
    values = values[inside]
    positions = references.normalized_positions(*relative.shape)[inside]
    depth_m = references.depth_m[inside].astype(np.float64)
    total = len(values)
    if total < limits.min_references:
        return _no_fit(total, f'{total} references, at least {limits.min_references} are needed')
    if np.diff(np.quantile(values, (0.05, 0.95)))[0] < _MIN_SPREAD:
        return _no_fit(total, 'all references have the same relative depth')
    line_values = reciprocal_if(inverse, depth_m)
    held_out = np.arange(total) % _HELD_OUT_STEP == 0
    line = robust_line(values[~held_out], line_values[~held_out], limits.tolerance)
    if line is None:
        return _no_fit(total, 'no positive scale fits the references')
    measured = ScaleShift(*line, inverse)
    alignment = Alignment.uniform(measured)
    check_data = values[held_out], positions[held_out], depth_m[held_out]
    quality = assess(alignment, *check_data, limits)
    if scale_filter is not None and not quality.problem:
        filtered = scale_filter(measured)
        if filtered is None:
            return _no_fit(total, _JUMPED)
        line, alignment = (filtered.scale, filtered.shift), Alignment.uniform(filtered)
        quality = assess(alignment, *check_data, limits)
    if local and not quality.problem and total >= _MIN_LOCAL_REFERENCES:
        aspect = relative.shape[1] / relative.shape[0]
        fit_data = values[~held_out], line_values[~held_out], positions[~held_out]
        local_alignment = Alignment(*local_lines(*fit_data, line, aspect), inverse)
        local_quality = assess(local_alignment, *check_data, limits)
        if local_quality.skill > quality.skill and not local_quality.problem:
            # The final fit uses all references, including the held-out ones.
            maps = local_lines(values, line_values, positions, line, aspect)
            alignment, quality = Alignment(*maps, inverse), local_quality
    return Fit(measured, alignment, replace(quality, references=total))


def align_by_factor(
    relative: Float,
    references: References,
    line: ScaleShift,
    limits: TrustLimits,
    *,
    scale_filter: Callable[[ScaleShift], ScaleShift | None] | None = None,
) -> Fit:
    """
    Multiply a given scale and shift by one factor, for references that are too few for a fit.

    No references are held out: the check is weaker than that of `align`.
    """
    values = relative[references.rows, references.columns].astype(np.float64)
    inside = (values > 0) & (values < 1)
    ratio = references.depth_m[inside] / line.depth_m(values[inside])
    if len(ratio) == 0:
        return _no_fit(0, 'no upright person is visible from eyes to ankles')
    factor = float(np.median(ratio))
    error = np.abs(factor / ratio - 1)
    is_inlier = error < limits.tolerance
    quality = Quality(len(ratio), float(is_inlier.mean()), float(np.median(error)))
    if quality.inliers < limits.min_inliers:
        return _no_fit(
            len(ratio),
            f'only {quality.inliers:.0%} of the people give the same scale, at least '
            f'{limits.min_inliers:.0%} are needed',
        )
    line_factor = 1 / factor if line.inverse else factor
    measured = ScaleShift(line.scale * line_factor, line.shift * line_factor, line.inverse)
    filtered = scale_filter(measured) if scale_filter is not None else measured
    if filtered is None:
        return _no_fit(len(ratio), _JUMPED)
    return Fit(measured, Alignment.uniform(filtered), quality)


def assess(
    alignment: Alignment,
    relative: Double,
    positions: Double,
    depth_m: Double,
    limits: TrustLimits,
) -> Quality:
    """
    Compare aligned depth with references that were not used in the fit.

    :param relative: (N,) relative depth or disparity at the references, N > 0.
    :param positions: (N, 2) row and column of the references, as fractions of height and width.
    :param depth_m: (N,) depth of the references.
    """
    error = np.abs(alignment.depth_m(relative, positions) - depth_m) / depth_m
    is_inlier = error < limits.tolerance
    row, column = cell_indices(positions[is_inlier], _ROWS, _COLUMNS)
    quality = Quality(
        len(depth_m),
        float(is_inlier.mean()),
        float(np.median(error[is_inlier])) if is_inlier.any() else math.nan,
        _skill(error, is_inlier, depth_m, 2 * limits.tolerance),
        len(np.unique(row * _COLUMNS + column)) / (_ROWS * _COLUMNS),
    )
    return replace(quality, problem=_problem(quality, limits))


def _problem(quality: Quality, limits: TrustLimits) -> str:
    """Describe the first limit that is not kept; empty if all are."""
    if quality.inliers < limits.min_inliers:
        return (
            f'{quality.inliers:.0%} of the references agree within {limits.tolerance:.0%}, '
            f'at least {limits.min_inliers:.0%} are needed'
        )
    if not quality.residual <= limits.max_residual:
        return (
            f'the median error of the references is {quality.residual:.1%}, '
            f'the limit is {limits.max_residual:.1%}'
        )
    if quality.skill < limits.min_skill:
        return (
            f'the error is only {quality.skill:.0%} smaller than that of the best constant depth, '
            f'at least {limits.min_skill:.0%} are needed: the references are of another moment or '
            'another camera'
        )
    if quality.support < limits.min_support:
        return (
            f'references that agree lie in {quality.support:.0%} of the image cells, at least '
            f'{limits.min_support:.0%} are needed'
        )
    return ''


def _skill(error: Double, is_inlier: NDArray[np.bool_], depth_m: Double, bound: float) -> float:
    """
    Return 1 - error / error of the best constant depth, both mean values of bounded errors.

    Only depths of inliers are candidates for the constant: a sensor that repeats one wrong depth
    must not make the baseline look good.
    """
    if not is_inlier.any():
        return 0.0
    constants = np.quantile(depth_m[is_inlier], np.linspace(0.1, 0.9, 9))[:, None]
    baseline = np.minimum(np.abs(constants - depth_m) / depth_m, bound).mean(1).min()
    return float(1 - np.minimum(error, bound).mean() / max(float(baseline), 1e-6))


def _no_fit(total: int, problem: str) -> Fit:
    return Fit(None, None, Quality(total, problem=problem))
