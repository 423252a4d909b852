"""
From relative depth to metres: a scale and a shift that references of known depth agree with.

Relative depth (or disparity) is right up to a scale and a shift. Both are found robustly from
pixels whose depth is known, refined locally where such pixels are dense, and judged on pixels that
were held out: what does not agree with them is never called metres.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
import math

import numpy as np
from numpy.typing import NDArray

from sd_perception_ros.config import check, option
from sd_perception_ros.metric_depth.references import References
from sd_perception_ros.metric_depth.robust_fit import cells, local_lines, robust_line
from sd_perception_ros.metric_depth.scale import Alignment, inverted, ScaleShift
from sd_perception_ros.types import Float

Double = NDArray[np.float64]

# Every n-th reference is held out of all fits, to judge them.
_HELD_OUT = 4
# The support is a share of so many cells of the picture.
_ROWS, _COLUMNS = 6, 8
# References that span less of the relative range than this tell no scale.
_LEAST_SPREAD = 0.05
_JUMPED = 'the scale jumped, and the frames since do not yet agree on it'
# Fewer references than this give one scale and shift for the whole picture.
_LEAST_LOCAL = 100


@dataclass(frozen=True)
class Limits:
    """What a scale must reach before its result is called metres."""

    tolerance: float = option(
        0.2, 'A reference agrees whose depth is off by less than this share', low=0.01, high=1.0
    )
    min_references: int = option(
        40, 'Fewer pixels of known depth give no metres', low=8, high=100_000
    )
    min_inliers: float = option(0.5, 'Least share of the references that agree', low=0.0, high=1.0)
    max_residual: float = option(
        0.15, 'Largest median error of those that agree, as a share of depth', low=0.0, high=1.0
    )
    min_skill: float = option(
        0.2,
        'Least share by which the error is smaller than that of one depth everywhere',
        low=0.0,
        high=1.0,
    )
    min_support: float = option(
        0.06,
        "Least share of the picture's 8 x 6 cells with references that agree",
        low=0.0,
        high=1.0,
    )

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        check(self)


@dataclass(frozen=True)
class Quality:
    """
    How well references that no fit has seen agree with the metres.

    :ivar references: how many there were in all.
    :ivar inliers: share of the held-out ones whose depth is off by less than the tolerance.
    :ivar residual: median error of those, as a share of their depth.
    :ivar skill: share by which the bounded error is smaller than that of the best single depth:
        1 for a perfect fit, about 0 for references that have nothing to do with the picture.
    :ivar support: share of the picture's 8 x 6 cells that hold references that agree.
    :ivar problem: why these are no metres, for people; empty where all is well.
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
    What the references of one picture say.

    :ivar own: their own scale and shift; None where there is none.
    :ivar alignment: what to make metres with; None where there is none.
    :ivar quality: of `alignment`; it also says why there is none.
    """

    own: ScaleShift | None
    alignment: Alignment | None
    quality: Quality


def align(
    relative: Float,
    references: References,
    inverse: bool,
    limits: Limits,
    *,
    steady: Callable[[ScaleShift], ScaleShift | None] | None = None,
    local: bool = False,
) -> Fit:
    """
    Find the scale and shift of one picture by its references, and judge them.

    A quarter of the references takes no part in the fits and judges them. One scale and shift must
    pass first: local ones could follow references of another moment, whatever the picture shows.

    :param relative: (H, W) float32, 0..1.
    :param inverse: whether they are disparity: the line then gives 1 / depth.
    :param steady: a filter over time: from the references' own scale and shift, where they can be
        trusted, to the ones to use, or to None where it does not believe them. The same
        references judge what it gives.
    :param local: let scale and shift vary over the picture, where references are many and those
        held out agree better then.
    """
    values = relative[references.rows, references.columns].astype(np.float64)
    # The ends of the range are bounds, not values.
    inside = (values > 0) & (values < 1)
    values = values[inside]
    places = references.places(*relative.shape)[inside]
    depth_m = references.depth_m[inside].astype(np.float64)
    total = len(values)
    if total < limits.min_references:
        return _none(total, f'{total} references, at least {limits.min_references} are needed')
    if np.diff(np.quantile(values, (0.05, 0.95)))[0] < _LEAST_SPREAD:
        return _none(total, 'all references lie at one relative depth')
    line_values = inverted(depth_m, inverse)
    held = np.arange(total) % _HELD_OUT == 0
    found = robust_line(values[~held], line_values[~held], limits.tolerance)
    if found is None:
        return _none(total, 'no scale fits the references: they turn near and far')
    own = ScaleShift(*found, inverse)
    line, made = own, Alignment.everywhere(own)
    judges = values[held], places[held], depth_m[held]
    quality = judge(made, *judges, limits)
    if steady is not None and not quality.problem:
        smooth = steady(own)
        if smooth is None:
            return _none(total, _JUMPED)
        line, made = smooth, Alignment.everywhere(smooth)
        quality = judge(made, *judges, limits)
    if local and not quality.problem and total >= _LEAST_LOCAL:
        aspect = relative.shape[1] / relative.shape[0]
        start = line.scale, line.shift
        fields = local_lines(values[~held], line_values[~held], places[~held], start, aspect)
        finer = judge(Alignment(*fields, inverse), *judges, limits)
        if finer.skill > quality.skill and not finer.problem:
            fields = local_lines(values, line_values, places, start, aspect)  # now from all
            made, quality = Alignment(*fields, inverse), finer
    return Fit(own, made, replace(quality, references=total))


def align_by_factor(
    relative: Float,
    references: References,
    line: ScaleShift,
    limits: Limits,
    *,
    steady: Callable[[ScaleShift], ScaleShift | None] | None = None,
) -> Fit:
    """
    Multiply a given scale and shift by one factor, where references are too few for a fit.

    The references are their own judges here: it is a last resort.
    """
    values = relative[references.rows, references.columns].astype(np.float64)
    inside = (values > 0) & (values < 1)
    ratio = references.depth_m[inside] / line.depth_m(values[inside])
    if len(ratio) == 0:
        return _none(0, 'nobody stands in view from eyes to ankles')
    factor = float(np.median(ratio))
    error = np.abs(factor / ratio - 1)
    agree = error < limits.tolerance
    quality = Quality(len(ratio), float(agree.mean()), float(np.median(error)))
    if quality.inliers < limits.min_inliers:
        return _none(len(ratio), f'people disagree: {quality.inliers:.0%} of them agree')
    by = 1 / factor if line.inverse else factor
    own = ScaleShift(line.scale * by, line.shift * by, line.inverse)
    smooth = steady(own) if steady is not None else own
    if smooth is None:
        return _none(len(ratio), _JUMPED)
    return Fit(own, Alignment.everywhere(smooth), quality)


def judge(
    alignment: Alignment, relative: Double, places: Double, depth_m: Double, limits: Limits
) -> Quality:
    """
    Compare metres with references that had no part in them.

    :param relative: (N,) values at the references, N > 0.
    :param places: (N, 2) shares of the picture's height and width.
    :param depth_m: (N,) what they should be.
    """
    error = np.abs(alignment.depth_m(relative, places) - depth_m) / depth_m
    agree = error < limits.tolerance
    row, column = cells(places[agree], _ROWS, _COLUMNS)
    quality = Quality(
        len(depth_m),
        float(agree.mean()),
        float(np.median(error[agree])) if agree.any() else math.nan,
        _skill(error, agree, depth_m, 2 * limits.tolerance),
        len(np.unique(row * _COLUMNS + column)) / (_ROWS * _COLUMNS),
    )
    return replace(quality, problem=_problem(quality, limits))


def _problem(quality: Quality, limits: Limits) -> str:
    """Name the first limit that is not kept."""
    if quality.inliers < limits.min_inliers:
        return (
            f'{quality.inliers:.0%} of the references agree within {limits.tolerance:.0%}, '
            f'at least {limits.min_inliers:.0%} must'
        )
    if not quality.residual <= limits.max_residual:
        return (
            f'the median error of the references is {quality.residual:.1%}, '
            f'at most {limits.max_residual:.1%} may be'
        )
    if quality.skill < limits.min_skill:
        return (
            f'the error is only {quality.skill:.0%} smaller than that of one depth everywhere, '
            f'at least {limits.min_skill:.0%} must be: the references are of another moment or '
            'another camera'
        )
    if quality.support < limits.min_support:
        return (
            f'references that agree lie in {quality.support:.0%} of the picture, in at least '
            f'{limits.min_support:.0%} they must'
        )
    return ''


def _skill(error: Double, agree: NDArray[np.bool_], depth_m: Double, bound: float) -> float:
    """
    Compare the bounded mean error with that of the best single depth, which sees nothing.

    That depth is one of those that agree: where a sensor says the same wrong depth again and
    again, nothing is gained by repeating it.
    """
    if not agree.any():
        return 0.0
    depths = np.quantile(depth_m[agree], np.linspace(0.1, 0.9, 9))[:, None]
    blind = np.minimum(np.abs(depths - depth_m) / depth_m, bound).mean(1).min()
    return float(1 - np.minimum(error, bound).mean() / max(float(blind), 1e-6))


def _none(total: int, problem: str) -> Fit:
    return Fit(None, None, Quality(total, problem=problem))
