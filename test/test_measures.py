"""The field's measures against other implementations of them, and against sums done by hand."""

from __future__ import annotations

import math
import warnings

import cv2
from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
from numpy.typing import NDArray
import py_sod_metrics
import pytest
from scipy.ndimage import gaussian_filter
from skimage.measure import label, regionprops
from sklearn.metrics import accuracy_score, jaccard_score, recall_score
import torch

from sd_perception_ros.metrics.depth import (
    depth_errors,
    fitted,
    mean_depth_errors,
    measure_affine,
)
from sd_perception_ros.metrics.foreground import (
    boundary_iou,
    foreground_summary,
    measure_foreground,
)
from sd_perception_ros.metrics.matting import (
    connectivity_error,
    gradient_error,
    mean_alpha_errors,
    measure_alpha,
)
from sd_perception_ros.metrics.normals import angle_counts, angle_summary, angles_deg
from sd_perception_ros.metrics.segmentation import confusion, confusion_summary

Map = NDArray[np.float32]


def blobs(seed: int, shape: tuple[int, int] = (48, 64), sigma: float = 4) -> Map:
    """Return a smooth random map, 0..1, in which about half is 0 or 1."""
    noise = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), sigma)
    return np.clip(0.5 + smooth / smooth.std(), 0, 1)


# Depth and disparity.


def test_depth_errors_of_three_pixels_equal_values_computed_by_hand() -> None:
    predicted, truth = np.array([[1.0, 3.0, 8.0]], 'f'), np.array([[1.0, 2.0, 10.0]], 'f')
    errors = depth_errors(predicted, truth, np.ones((1, 3), bool))
    assert errors == pytest.approx(
        {
            'abs_rel': (0 + 1 / 2 + 2 / 10) / 3,
            'delta1': 1 / 3,  # ratios 1, 1.5 and 1.25, and 1.25 is not below 1.25
            'delta2': 1,
            'delta3': 1,
            'rmse_m': math.sqrt((0 + 1 + 4) / 3),
            'log10': (math.log10(1.5) + math.log10(1.25)) / 3,
        }
    )


@given(seed=st.integers(0, 99))
def test_the_fit_equals_polyfit(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values, truth = rng.random((2, 8, 9)).astype(np.float32)
    valid = rng.random((8, 9)) < 0.7
    line = np.polyfit(values[valid].astype(float), truth[valid].astype(float), 1)
    np.testing.assert_allclose(fitted(values, truth, valid), np.polyval(line, values), atol=1e-5)


def depth_sample(depth_m: list[float], *range_m: float) -> dict[str, torch.Tensor]:
    sample = {'depth_m': torch.tensor(depth_m).view(1, 1, 1, -1)}
    return sample | ({'range_m': torch.tensor([range_m])} if range_m else {})


def test_a_disparity_is_fitted_in_one_over_depth_and_a_depth_in_depth() -> None:
    values, depth_m = np.array([[0.0, 0.5, 1.0]], 'f'), [1.0, 0.5, 1 / 3]
    exact = mean_depth_errors([measure_affine(values, depth_sample(depth_m), inverse=True)])
    assert exact['abs_rel'] == pytest.approx(0, abs=1e-5)
    line = np.polyval(np.polyfit(values[0], depth_m, 1), values[0])
    fit = mean_depth_errors([measure_affine(values, depth_sample(depth_m))])
    assert fit['abs_rel'] == pytest.approx(np.mean(np.abs(line - depth_m) / depth_m), abs=1e-5)


def test_zero_disparity_is_excluded_from_the_fit() -> None:
    # Far away the answer is cut off at 0: a line through it would bend what is near.
    values, depth_m = np.array([[0.5, 1.0, 0.0, 0.0]], 'f'), [0.5, 1 / 3, 10.0, 20.0]
    row = measure_affine(values, depth_sample(depth_m), inverse=True)[0]
    # Fitted 1 / depth = 1 + 2 x: exact twice, then 1 m instead of 10 and 20.
    assert row[0] == pytest.approx((0.9 + 0.95) / 4)


def test_truth_out_of_range_is_ignored_and_a_fit_is_clipped_to_the_range() -> None:
    values = np.array([[0.0, 1.0, 0.5, 0.5]], 'f')
    # Without 50 m the line through the others is exact, 2 m + 8 m * value.
    far = mean_depth_errors([measure_affine(values, depth_sample([2, 10, 6, 50], 1e-3, 12))])
    assert far['rmse_m'] == pytest.approx(0, abs=1e-5)
    # The mean of 1 m and 3 m is right for both pixels of 0.5, and the line goes from -1 m to 5 m.
    steep = [1.0, 3.0, 0.01, 3.99]
    fit = np.clip(np.polyval(np.polyfit(values[0], steep, 1), values[0]), 1e-3, 4)
    clipped = mean_depth_errors([measure_affine(values, depth_sample(steep, 1e-3, 4))])
    assert clipped['rmse_m'] == pytest.approx(np.sqrt(np.mean((fit - steep) ** 2)), abs=1e-5)


def test_means_leave_out_images_without_truth_and_are_nan_without_images() -> None:
    values = np.array([[0.0, 1.0]], 'f')
    nothing = measure_affine(values, depth_sample([math.nan, math.inf]))
    perfect = measure_affine(values, depth_sample([1, 2]))
    assert mean_depth_errors([nothing, perfect])['delta1'] == 1
    assert math.isnan(mean_depth_errors([nothing])['delta1'])


# Normals.


def test_pooled_angles_have_the_median_and_fractions_of_numpy() -> None:
    rng = np.random.default_rng(0)
    images = [np.abs(rng.normal(0, spread, 5000)).astype(np.float32) for spread in (4, 20, 50)]
    images = [np.minimum(angles, 180) for angles in images]
    images[0][:3] = 11.25, 0, 180  # the limit itself is not below the limit
    pooled = np.concatenate(images)
    found = angle_summary([angle_counts(angles) for angles in images])
    assert found['mean_deg'] == pytest.approx(pooled.mean(), rel=1e-5)
    assert found['median_deg'] == pytest.approx(np.median(pooled), abs=1 / 32)
    for limit in (5, 7.5, 11.25, 22.5, 30):
        assert found[f'under_{limit:g}'] == pytest.approx((pooled < limit).mean())


def test_a_quarter_turn_and_a_zero_vector_are_90_degrees() -> None:
    facing = np.array([[0, 0, -1]] * 3, np.float32)
    answers = np.array([[0, 0, -1], [1, 0, 0], [0, 0, 0]], np.float32)
    np.testing.assert_allclose(angles_deg(answers, facing), [0, 90, 90], atol=1e-3)


# Classes.


def test_classes_of_a_whole_set_score_as_in_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, (4, 20, 30))
    truth[0] = 0  # the mean of each image's IoU would be another number
    predicted = np.where(rng.random(truth.shape) < 0.6, truth, rng.integers(0, 4, truth.shape))
    counts = [confusion(t, p, 4) for t, p in zip(truth, predicted, strict=True)]
    found = confusion_summary(counts, 'abcd')
    flat = truth.ravel(), predicted.ravel()
    each = jaccard_score(*flat, average=None, labels=[0, 1, 2])
    assert [found[f'iou_{name}'] for name in 'abc'] == pytest.approx(each)
    assert found['mean_iou'] == pytest.approx(each.mean())
    assert found['accuracy'] == pytest.approx(accuracy_score(*flat))
    recall = recall_score(*flat, average='macro', labels=[0, 1, 2])
    assert found['class_accuracy'] == pytest.approx(recall)
    assert 'iou_d' not in found  # it does not occur


def test_unknown_pixels_have_no_class() -> None:
    truth, predicted = np.array([[0, 1, 255]]), np.array([[0, 1, 1]])
    assert confusion(truth, predicted, 2).tolist() == [[1, 0], [0, 1]]
    assert math.isnan(
        confusion_summary([confusion(truth * 0 + 255, predicted, 2)], 'ab')['accuracy']
    )


# Foregrounds.


def test_foregrounds_of_a_whole_set_score_as_in_pysodmetrics() -> None:
    truths = [(blobs(seed) > 0.5).astype(np.float32) for seed in range(3)]
    alphas = [np.clip(0.6 * t + 0.4 * blobs(9 + i), 0, 1) for i, t in enumerate(truths)]
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        names = ('MAE', 'WeightedFmeasure', 'Smeasure', 'Fmeasure', 'Emeasure')
        whole = [getattr(py_sod_metrics, name)() for name in names]
        effort = py_sod_metrics.HumanCorrectionEffortMeasure()
    for alpha, truth in zip(alphas, truths, strict=True):
        for measure in (*whole, effort):
            measure.step(np.round(alpha * 255).astype(np.uint8), (truth * 255).astype(np.uint8))
    mae, weighted, s, f, e = (measure.get_results() for measure in whole)
    found = foreground_summary(
        [measure_foreground(a, t) for a, t in zip(alphas, truths, strict=True)]
    )
    expected = {
        'mae': mae['mae'],
        'weighted_f': weighted['wfm'],
        's': s['sm'],
        'max_f': f['fm']['curve'].max(),
        'mean_e': e['em']['curve'].mean(),
        'hce': effort.get_results()['hce'],
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-5)


def test_unknown_pixels_are_background_in_prediction_and_truth() -> None:
    truth = np.zeros((20, 20), np.float32)
    truth[5:15, :10] = 1
    alpha = truth.copy()
    alpha[:, 15:] = 1  # wrong, if anybody knew
    truth[:, 15:] = np.nan
    found = foreground_summary([measure_foreground(alpha, truth)])
    assert found['mae'] == 0
    assert found['boundary_iou'] == 1
    assert measure_foreground(alpha, np.full_like(truth, np.nan)).shape[0] == 0
    assert math.isnan(foreground_summary([np.empty((0, 517), np.float32)])['s'])


def test_an_object_in_the_last_column_has_no_s_measure_and_is_left_out_of_means() -> None:
    edge, middle = np.zeros((2, 20, 20), np.float32)
    edge[:, -1], middle[5:15, 5:15] = 1, 1  # beside the last column there is no quarter to compare
    rows = [measure_foreground(truth, truth) for truth in (edge, middle)]
    assert math.isnan(foreground_summary(rows[:1])['s'])
    assert foreground_summary(rows)['s'] == pytest.approx(1)


def test_the_boundary_iou_of_a_filled_hole_equals_the_count_by_hand() -> None:
    whole = np.ones((30, 40), bool)  # the diagonal is 50 px, 2 % of it 1 px
    border = 30 * 40 - 28 * 38
    holed = whole.copy()
    holed[10:13, 10:13] = False  # its own border: the 5 x 5 around it without the hole
    assert boundary_iou(whole, holed) == pytest.approx(border / (border + 25 - 9))
    assert boundary_iou(~whole, ~whole) == 1


# Mattes.


def test_a_matte_half_as_bright_as_the_truth_has_errors_of_a_half() -> None:
    half = np.full((10, 100), 0.5, np.float32)
    found = mean_alpha_errors([measure_alpha(half, np.ones((10, 100), np.float32))])
    # 1000 pixels wrong by 0.5; no slopes; connected up to 0.5, which leaves 1 - 0.5 of the truth.
    assert found == pytest.approx(
        {'mad': 0.5, 'mse': 0.25, 'sad': 0.5, 'grad': 0, 'conn': 0.5, 'soft_iou': 0.5}
    )


def test_the_gradient_error_equals_scipy() -> None:
    alpha, truth = blobs(1), blobs(2)

    def slopes(matte: Map) -> Map:
        # The reference's kernel reaches 4 px and has a norm of 1; scipy's is scaled otherwise.
        impulse = np.zeros((21, 21))
        impulse[10, 10] = 1
        both = []
        for order in ((0, 1), (1, 0)):
            options = {'sigma': 1.4, 'order': order, 'mode': 'nearest', 'radius': 4}
            scale = np.linalg.norm(gaussian_filter(impulse, **options))
            both.append(gaussian_filter(matte.astype(float), **options) / scale)
        return np.hypot(*both)

    expected = np.square(slopes(alpha) - slopes(truth)).sum()
    assert gradient_error(alpha, truth) == pytest.approx(expected, rel=1e-4)


def connectivity_by_the_book(alpha: Map, truth: Map) -> float:
    """Return the error as the definition reads, with scikit-image."""
    levels = np.full(alpha.shape, -1.0)
    for step in range(1, 11):
        regions = label((alpha >= step / 10) & (truth >= step / 10), connectivity=1)
        largest = max(regionprops(regions), key=lambda region: region.area, default=None)
        omega = regions == largest.label if largest else np.zeros(alpha.shape, bool)
        levels[(levels == -1) & ~omega] = (step - 1) / 10
    levels[levels == -1] = 1
    one, other = (
        1 - (matte - levels) * (matte - levels >= 0.15) for matte in (alpha.astype(float), truth)
    )
    return float(np.abs(one - other).sum())


@given(seed=st.integers(0, 999), sigma=st.sampled_from([0.5, 1.5, 4]))
@settings(max_examples=25, deadline=None)
def test_the_connectivity_error_equals_its_definition(seed: int, sigma: float) -> None:
    # Levels between the thresholds, so that no rounding decides.
    alpha, truth = (np.floor(blobs(s, (24, 32), sigma) * 20) / 20 + 0.01 for s in (seed, seed + 1))
    alpha, truth = (np.minimum(matte, 1).astype(np.float32) for matte in (alpha, truth))
    assert connectivity_error(alpha, truth) == pytest.approx(
        connectivity_by_the_book(alpha, truth), abs=1e-3
    )


def test_a_disconnected_part_is_an_error_of_connectivity_only() -> None:
    truth = np.zeros((5, 9), np.float32)
    truth[1:4, 1:8] = 1
    alpha = truth.copy()
    alpha[1:4, 5] = 0  # cuts three columns of three pixels into two of them
    # The cut itself, 3 pixels. Beyond it both mattes are opaque and equally unconnected.
    assert connectivity_error(alpha, truth) == pytest.approx(3)
    assert connectivity_error(truth * 0, truth) == pytest.approx(21)  # nothing found: all of it


def test_unknown_pixels_of_a_matte_are_ignored() -> None:
    truth = np.ones((10, 10), np.float32)
    truth[:, 5:] = np.nan
    alpha = np.ones((10, 10), np.float32)
    found = mean_alpha_errors([measure_alpha(alpha, truth)])
    assert found == {'mad': 0, 'mse': 0, 'sad': 0, 'grad': 0, 'conn': 0, 'soft_iou': 1}
    assert math.isnan(mean_alpha_errors([measure_alpha(alpha, truth * np.nan)])['conn'])
