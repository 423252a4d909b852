"""Alignment with references: correct metric depth, or the reason why there is none."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from sd_perception_ros.geometry.pinhole import back_project
from sd_perception_ros.metric_depth.alignment import align, align_by_factor, TrustLimits
from sd_perception_ros.metric_depth.references import from_depth, References
from sd_perception_ros.metric_depth.robust_fit import robust_line
from sd_perception_ros.metric_depth.scale import Alignment, ScaleShift, to_metres
from sd_perception_ros.types import Camera

SHAPE = (60, 80)
LIMITS = TrustLimits()


def fixed(scale: float, shift: float, inverse: bool = False) -> Alignment:
    return Alignment.uniform(ScaleShift(scale, shift, inverse))


def scene(seed: int = 0) -> np.ndarray:
    """Make the relative depth of a receding floor with boxes."""
    rng = np.random.default_rng(seed)
    relative = np.linspace(0.95, 0.3, SHAPE[0])[:, None] + np.zeros(SHAPE)
    for _ in range(6):
        top, left = rng.integers(0, 40), rng.integers(0, 60)
        relative[top : top + 20, left : left + 20] = rng.uniform(0.05, 0.9)
    return relative.astype(np.float32)


def references_of(depth_m: np.ndarray, share: float = 0.1, seed: int = 0) -> References:
    """Take a random share of the pixels as references."""
    is_reference = np.random.default_rng(seed).random(depth_m.shape) < share
    return from_depth(np.where(is_reference, depth_m, np.nan).astype(np.float32))


def with_depth(references: References, depth_m: np.ndarray) -> References:
    return References(references.rows, references.columns, depth_m.astype(np.float32))


# ---- Metric depth -------------------------------------------------------------------------------


def test_metric_depth_is_scale_times_relative_plus_shift():
    relative = np.array([[0.25, 0.5, 0.75]], np.float32)
    assert to_metres(relative, fixed(4.0, 1.0)).tolist() == [[2.0, 3.0, 4.0]]


def test_disparity_gives_one_over_depth():
    """Of 0.5 / m and a shift of 0.25 / m, half disparity is 1 / 0.5 = 2 m."""
    disparity = np.array([[0.5, 0.0, 1.0, 0.1]], np.float32)
    depth_m = to_metres(disparity, fixed(0.5, 0.25, inverse=True), max_range_m=3.0)
    np.testing.assert_array_equal(depth_m, [[2.0, np.inf, -np.inf, np.inf]])


def test_inverse_depth_that_is_not_positive_is_infinitely_far():
    disparity = np.array([[0.1, 0.2, 0.9]], np.float32)
    depth_m = to_metres(disparity, fixed(1.0, -0.4, inverse=True))
    np.testing.assert_allclose(depth_m, [[np.inf, np.inf, 2.0]], rtol=1e-6)


def test_out_of_range_is_infinite_and_never_clipped():
    relative = np.array([[0.01, 0.5, 0.9, np.nan]], np.float32)
    depth_m = to_metres(relative, fixed(10.0, 0.0), min_range_m=0.3, max_range_m=8.0)
    np.testing.assert_array_equal(depth_m, [[-np.inf, 5.0, np.inf, np.nan]])


def test_the_saturated_ends_of_relative_depth_are_not_distances():
    """0 is `this near or nearer` and 1 is `this far or farther`."""
    relative = np.array([[0.0, 0.5, 1.0]], np.float32)
    depth_m = to_metres(relative, fixed(4.0, 1.0))
    np.testing.assert_array_equal(depth_m, [[-np.inf, 3.0, np.nan]])
    points = back_project(depth_m, Camera(fx=1.0, fy=1.0, cx=1.0, cy=0.0, width=3, height=1))
    assert np.isfinite(points).all(-1).tolist() == [[False, True, False]]


@pytest.mark.parametrize(('max_range_m', 'is_free'), [(4.9, True), (5.1, False)])
def test_the_far_end_is_free_only_beyond_the_maximum_range(max_range_m, is_free):
    """It is 4 + 1 = 5 m or more: beyond a range of 4.9 m, perhaps within one of 5.1 m."""
    depth_m = to_metres(np.ones((1, 1), np.float32), fixed(4.0, 1.0), 0.0, max_range_m)
    assert np.isposinf(depth_m[0, 0]) == is_free
    assert np.isnan(depth_m[0, 0]) != is_free


def test_depth_that_is_not_positive_is_too_near():
    relative = np.array([[0.2, 0.25, 0.5]], np.float32)
    assert to_metres(relative, fixed(4.0, -1.0)).tolist() == [[-np.inf, -np.inf, 1.0]]


@pytest.mark.parametrize('scale_m', [0.0, -1.0, math.nan, math.inf])
def test_a_scale_that_is_not_positive_is_refused(scale_m):
    with pytest.raises(ValueError, match='positive and finite'):
        ScaleShift(scale_m, 0.0)


def test_scale_and_shift_vary_over_the_image():
    """Two cells side by side: 2 m and 4 m at their centres, and 3 m half way."""
    alignment = Alignment(
        np.zeros((1, 2), np.float32), np.array([[2, 4]], np.float32), inverse=False
    )
    depth_m = to_metres(np.full((1, 5), 0.5, np.float32), alignment)
    np.testing.assert_allclose(depth_m, [[2, 2.2, 3, 3.8, 4]], rtol=1e-5)


# ---- Fits to references -------------------------------------------------------------------------


@given(
    scale=st.floats(0.1, 5), shift=st.floats(0, 2), inverse=st.booleans(), seed=st.integers(0, 9)
)
def test_exact_references_give_their_scale_and_shift(scale, shift, inverse, seed):
    relative = scene(seed)
    line = scale * relative + shift
    fit = align(relative, references_of(1 / line if inverse else line), inverse, LIMITS)
    assert fit.measured.scale == pytest.approx(scale, rel=1e-3, abs=1e-4)
    assert fit.measured.shift == pytest.approx(shift, rel=1e-3, abs=1e-3 * scale)
    assert fit.quality.inliers == 1
    assert fit.quality.residual < 1e-3


@pytest.mark.parametrize('seed', range(5))
def test_a_robust_line_is_the_least_squares_line_of_the_points_that_agree(seed):
    """Nine tenths lie within 5 % of 4 x + 1, well within the tolerance; the others are far off."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(0.1, 0.9, 400)
    y = (4 * x + 1) * rng.uniform(0.95, 1.05, 400)
    y[:40] *= 5
    fit = robust_line(x, y, tolerance=0.2)
    # numpy squares its weights: errors are relative to y.
    expected = np.polyfit(x[40:], y[40:], 1, w=1 / y[40:])
    np.testing.assert_allclose(fit, expected, rtol=1e-9)


KINDS = {
    'anywhere': lambda depth_m, rng: rng.uniform(0.3, 10, len(depth_m)),
    'twice as far': lambda depth_m, rng: 2 * depth_m,
    'all at half a metre': lambda depth_m, rng: np.full(len(depth_m), 0.5),
    'all at eight metres': lambda depth_m, rng: np.full(len(depth_m), 8.0),
}


@pytest.mark.parametrize('inverse', [False, True])
@pytest.mark.parametrize('local', [False, True])
@pytest.mark.parametrize('kind', KINDS)
def test_40_percent_of_outliers_do_not_change_the_result(kind, local, inverse):
    for seed in range(5):
        rng = np.random.default_rng(seed)
        relative = scene(seed)
        line = 0.6 * relative + 0.2 if inverse else 4 * relative + 1
        depth_m = 1 / line if inverse else line
        references = references_of(depth_m, seed=seed)
        wrong = rng.random(len(references)) < 0.4
        noisy = references.depth_m * np.exp(rng.normal(0, 0.02, len(references)))
        noisy[wrong] = KINDS[kind](references.depth_m[wrong], rng)
        fit = align(relative, with_depth(references, noisy), inverse, LIMITS, local=local)
        assert fit.quality.problem == ''
        depth_found_m = to_metres(relative, fit.alignment)
        finite = np.isfinite(depth_found_m)
        error = np.abs(depth_found_m - depth_m)[finite] / depth_m[finite]
        assert np.mean(error) < 0.02
        assert np.quantile(error, 0.99) < 0.15


@given(
    wrong=st.floats(0, 1),
    kind=st.sampled_from(sorted(KINDS)),
    seed=st.integers(0, 1000),
    local=st.booleans(),
)
def test_outliers_of_any_number_never_give_wrong_depth_without_a_problem(wrong, kind, seed, local):
    """Except a majority of outliers that agree with each other: it cannot be detected."""
    rng = np.random.default_rng(seed)
    relative = scene(seed)
    depth_m = 4 * relative + 1
    references = references_of(depth_m, seed=seed)
    hit = rng.random(len(references)) < wrong
    if kind == 'twice as far' and hit.mean() > 0.45:
        return
    mixed = references.depth_m.copy()
    mixed[hit] = KINDS[kind](mixed[hit], rng)
    fit = align(relative, with_depth(references, mixed), False, LIMITS, local=local)
    if not fit.quality.problem:
        depth_found_m = to_metres(relative, fit.alignment)
        finite = np.isfinite(depth_found_m)
        error = np.abs(depth_found_m - depth_m)[finite] / depth_m[finite]
        assert np.mean(error) < 0.1


@pytest.mark.parametrize('local', [False, True])
@pytest.mark.parametrize('seed', range(10))
def test_references_of_another_scene_give_no_metric_depth(seed, local):
    other = references_of(4 * scene(seed + 100)[::-1, ::-1] + 1)
    assert align(scene(seed), other, False, LIMITS, local=local).quality.problem


@given(seed=st.integers(0, 1000), local=st.booleans())
def test_shuffled_references_give_no_metric_depth(seed, local):
    references = references_of(4 * scene(seed) + 1)
    shuffled = np.random.default_rng(seed).permutation(references.depth_m)
    fit = align(scene(seed), with_depth(references, shuffled), False, LIMITS, local=local)
    assert fit.quality.problem


def test_references_with_near_and_far_swapped_are_refused():
    fit = align(scene(), references_of(6 - 4 * scene()), False, LIMITS)
    assert fit.alignment is None or fit.quality.problem


def test_few_references_are_refused_with_their_number():
    fit = align(scene(), references_of(4 * scene() + 1, share=0.005), False, LIMITS)
    assert fit.alignment is None
    assert 'references, at least 40 are needed' in fit.quality.problem


def test_references_at_saturated_pixels_do_not_count():
    relative = np.where(np.arange(80) < 40, 0.0, 1.0).astype(np.float32) + np.zeros(SHAPE, 'f4')
    fit = align(relative, references_of(np.full(SHAPE, 2.0)), False, LIMITS)
    assert fit.quality.problem == '0 references, at least 40 are needed'


def test_references_at_one_relative_depth_give_no_scale():
    fit = align(np.full(SHAPE, 0.5, np.float32), references_of(np.full(SHAPE, 2.0)), False, LIMITS)
    assert fit.quality.problem == 'all references have the same relative depth'


def test_a_sensor_with_one_constant_depth_gives_no_scale():
    """3 m everywhere would agree with a scale of nearly 0 and a shift of 3 m."""
    fit = align(scene(), references_of(np.full(SHAPE, 3.0)), False, LIMITS)
    assert fit.alignment is None or fit.quality.problem


def test_references_in_one_corner_are_refused():
    corner = np.full(SHAPE, np.nan)
    relative = scene()
    corner[50:, 70:] = np.random.default_rng(0).uniform(1, 5, (10, 10))
    relative[50:, 70:] = (corner[50:, 70:] - 1) / 4
    fit = align(relative, references_of(corner, share=1.0), False, LIMITS)
    assert 'lie in 2% of the image cells' in fit.quality.problem


def test_a_local_fit_corrects_an_error_that_varies_over_the_image():
    """The depth is off by up to 15 % on the left and right; a global fit cannot correct that."""
    relative = scene()
    depth_m = (4 * relative + 1) * np.linspace(0.85, 1.15, SHAPE[1])[None]
    references = references_of(depth_m, share=0.3)
    errors = []
    for local in (False, True):
        fit = align(relative, references, False, LIMITS, local=local)
        assert fit.quality.problem == ''
        errors.append(np.mean(np.abs(to_metres(relative, fit.alignment) - depth_m) / depth_m))
    assert errors[0] > 0.05
    assert errors[1] < 0.02


def test_a_local_fit_is_not_used_if_held_out_references_do_not_agree_better():
    rng = np.random.default_rng(0)
    references = references_of(4 * scene() + 1, share=0.05)
    noisy = references.depth_m * np.exp(rng.normal(0, 0.1, len(references)))
    fit = align(scene(), with_depth(references, noisy), False, LIMITS, local=True)
    assert fit.alignment.scale.shape == (1, 1)
    assert fit.alignment.scale[0, 0] == pytest.approx(4, abs=0.3)


def test_a_filtered_scale_that_the_references_contradict_is_refused():
    twice = ScaleShift(8.0, 2.0)
    references = references_of(4 * scene() + 1)
    fit = align(
        scene(), references, False, LIMITS, scale_filter=lambda measured: twice, local=True
    )
    assert '0% of the references agree within 20%' in fit.quality.problem
    assert fit.measured.scale == pytest.approx(4, rel=1e-3)


def test_a_measurement_that_the_filter_rejects_gives_no_metric_depth():
    references = references_of(4 * scene() + 1)
    fit = align(scene(), references, False, LIMITS, scale_filter=lambda measured: None)
    assert fit.alignment is None
    assert 'the scale jumped' in fit.quality.problem


def test_the_filter_gets_no_scale_that_is_not_trusted():
    references = references_of(4 * scene() + 1)
    shuffled = np.random.default_rng(0).permutation(references.depth_m)
    filtered = []
    align(scene(), with_depth(references, shuffled), False, LIMITS, scale_filter=filtered.append)
    assert filtered == []


@given(seed=st.integers(0, 99))
def test_the_same_input_gives_the_same_result(seed):
    rng = np.random.default_rng(seed)
    references = references_of((4 * scene() + 1) * np.exp(rng.normal(0, 0.1, SHAPE)))
    first, second = (align(scene(), references, False, LIMITS, local=True) for _ in range(2))
    np.testing.assert_array_equal(first.alignment.scale, second.alignment.scale)


# ---- A factor -----------------------------------------------------------------------------------


@pytest.mark.parametrize('inverse', [False, True])
def test_a_factor_moves_people_to_their_distance(inverse):
    """2 m by the given scale, 3 m by the stature: all depths are multiplied by 1.5."""
    line = ScaleShift(0.5, 0.25, True) if inverse else ScaleShift(2.0, 1.0)
    person = References(np.array([3]), np.array([4]), np.array([3.0], np.float32))
    relative = np.full(SHAPE, 0.5, np.float32)
    fit = align_by_factor(relative, person, line, LIMITS)
    np.testing.assert_allclose(to_metres(relative, fit.alignment), 3.0, rtol=1e-6)


def test_people_with_different_scales_give_no_metric_depth():
    two = References(np.array([3, 3]), np.array([4, 9]), np.array([2.0, 6.0], np.float32))
    fit = align_by_factor(np.full(SHAPE, 0.5, np.float32), two, ScaleShift(2.0, 1.0), LIMITS)
    assert fit.alignment is None
    assert fit.quality.problem == (
        'only 0% of the people give the same scale, at least 50% are needed'
    )


def test_without_people_there_is_no_metric_depth():
    no_people = References(np.empty(0, int), np.empty(0, int), np.empty(0, np.float32))
    fit = align_by_factor(scene(), no_people, ScaleShift(2.0, 1.0), LIMITS)
    assert fit.quality.problem == 'no upright person is visible from eyes to ankles'
