"""Impossible references are refused with the values; plausible ones are accepted."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from sd_perception_ros.config import build
from sd_perception_ros.geometry.pinhole import BODY_FROM_OPTICAL, mounting
from sd_perception_ros.metric_depth.estimator import Measurement, MetricDepth, MetricDepthEstimator
from sd_perception_ros.metric_depth.options import ScaleOptions
from sd_perception_ros.metric_depth.plausibility import (
    check_depth,
    check_range,
    check_scan,
    ScanGeometry,
)
from sd_perception_ros.metric_depth.references import from_depth, from_scan, References
from sd_perception_ros.types import Camera, DepthMap

CAMERA = Camera(fx=40.0, fy=32.0, cx=29.0, cy=22.0, width=64, height=48)


def room_m() -> np.ndarray:
    """Depth of a floor and a wall with noise, 1.2 to 4.6 m, (48, 64) float32."""
    v = (np.arange(48) - CAMERA.cy) / CAMERA.fy
    depth_m = np.clip(0.9 / np.maximum(v, 0.01), 1.2, 4.6)[:, None] + np.zeros(64)
    return (depth_m * np.random.default_rng(0).normal(1, 0.01, depth_m.shape)).astype(np.float32)


def relative_of(depth_m: np.ndarray) -> np.ndarray:
    """Return the relative depth that a perfect network predicts, 0.1 to 0.9."""
    low, high = depth_m.min(), depth_m.max()
    return (0.1 + 0.8 * (depth_m - low) / (high - low)).astype(np.float32)


def decide(
    reference_m: np.ndarray, range_m: tuple[float, float] = (0.0, 100.0), **options: Any
) -> MetricDepth:
    scale = build(ScaleOptions, {'source': 'depth', **options})
    estimator = MetricDepthEstimator(scale, ['depth'], (), *range_m)
    rgb = np.zeros((48, 64, 3), np.uint8)
    measurement = Measurement(from_depth(reference_m), b'x', rgb, '/depth')
    predictions = {'depth': DepthMap(relative_of(room_m()))}
    return estimator.update(predictions, CAMERA, 1.0, measurement)


def test_a_plausible_reference_gives_metric_depth():
    made = decide(room_m())
    assert made.problem == ''
    inside = np.isfinite(made.depth_m)
    np.testing.assert_allclose(made.depth_m[inside], room_m()[inside], rtol=0.1)


@pytest.mark.parametrize(
    ('factor', 'range_m', 'words'),
    [
        (1000.0, (0.0, 100.0), '100% of the depths of /depth lie outside'),
        (100.0, (0.0, 100.0), 'depth.max_range_m 100, for example'),
        (1.0, (0.0, 1.0), '100% of the depths of /depth lie outside'),
        (1.0, (5.0, 9.0), '100% of the depths of /depth lie outside'),
    ],
)
def test_references_outside_the_range_give_no_metric_depth(factor, range_m, words):
    assert words in decide(room_m() * np.float32(factor), range_m).problem


def test_a_few_references_outside_the_range_are_accepted():
    reference_m = room_m()
    reference_m[:5] = 500.0
    assert decide(reference_m).problem == ''


@pytest.mark.parametrize(
    'other',
    [
        lambda m: m[::-1],  # upside down
        lambda m: np.roll(m, 24, axis=0),
        lambda m: np.random.default_rng(1).permutation(m.ravel()).reshape(m.shape),
        lambda m: 1 / m,  # disparity
        lambda m: np.tile(np.linspace(1, 5, 64, dtype=np.float32), (48, 1)),  # another camera's
    ],
)
def test_depth_of_another_view_gives_no_metric_depth(other):
    assert decide(np.ascontiguousarray(other(room_m()), np.float32)).problem != ''


def check_image(values: np.ndarray, in_metres: bool) -> None:
    depth_m = values.astype(np.float32)
    check_depth(from_depth(depth_m), depth_m, in_metres, '/depth')


def test_a_depth_image_in_a_wrong_unit_is_refused():
    check_image(room_m(), True)
    check_image(np.round(room_m() * 1000) / 1000, False)
    with pytest.raises(ValueError, match=r'whole numbers only, .* probably millimetres'):
        check_image(np.round(room_m() * 1000), True)
    with pytest.raises(ValueError, match=r'are at most 0\.005 m: 16UC1 and mono16 are in millim'):
        check_image(np.round(room_m()) / 1000, False)


def test_a_depth_image_with_equal_values_is_refused():
    check_image(np.full((48, 64), np.nan), True)
    check_image(np.full((48, 64), np.inf), True)
    with pytest.raises(
        ValueError, match=r'all 3072 values of /depth are 2\.5 m: it measures noth'
    ):
        check_image(np.full((48, 64), 2.5), True)
    with pytest.raises(ValueError, match=r'all .* are 65\.535 m'):
        check_image(np.full((48, 64), 65.535), False)


def scan_of(ranges_m: np.ndarray, **change: float) -> None:
    fields = {
        'angle_min': -1.0,
        'angle_max': 1.0,
        'angle_increment': 2 / (len(ranges_m) - 1) if len(ranges_m) > 1 else 0.0,
        'range_min': 0.1,
        'range_max': 12.0,
    }
    check_scan(ranges_m.astype(np.float32), ScanGeometry(**(fields | change)), '/scan')


WALL = 2 / np.cos(np.linspace(-1, 1, 101))


def test_a_plausible_scan_is_accepted():
    scan_of(WALL)
    scan_of(np.full(101, np.inf))
    scan_of(np.zeros(0))
    scan_of(np.where(np.arange(101) % 2, WALL, 13.0))  # beyond the range: no echo
    scan_of(WALL, angle_max=0.0)  # not filled in
    scan_of(WALL, angle_min=1.0, angle_max=-1.0, angle_increment=-0.02)


@pytest.mark.parametrize(
    ('ranges', 'change', 'words'),
    [
        (WALL * 1000, {}, r'all ranges of /scan lie outside .* is it in another unit'),
        (np.round(WALL * 1000), {'range_max': 12_000.0}, 'probably millimetres'),
        (np.full(101, 3.0), {}, 'all 101 values of /scan are 3 m'),
        (WALL, {'range_max': 0.0}, 'range_min 0.1 and range_max 0; range_max must be larger'),
        (WALL, {'range_min': math.nan}, 'not finite'),
        (WALL, {'angle_increment': 0.0}, '101 beams and an angle_increment of 0'),
        (
            WALL,
            {'angle_min': -57.3, 'angle_max': 57.3, 'angle_increment': 1.146},
            'angles are in radians',
        ),
        (WALL, {'angle_max': 3.0}, r'angle_max 3 rad, but its 101 beams end at 1 rad'),
    ],
)
def test_a_scan_with_contradictory_fields_is_refused(ranges, change, words):
    with pytest.raises(ValueError, match=words):
        scan_of(ranges, **change)


def test_a_scan_with_a_wrong_mounting_gives_no_metric_depth():
    """A scan of a corner with pillars, 0.3 m below the camera, mounted 90 degrees to the left."""
    angles = np.linspace(-0.7, 0.7, 200).astype(np.float32)
    steps = np.random.default_rng(3).permutation(np.linspace(1.2, 4.6, 10))
    ranges = (np.repeat(steps, 20) / np.cos(angles)).astype(np.float32)

    def references(yaw_deg: float) -> References:
        place = BODY_FROM_OPTICAL.inverse().after(mounting(0, 0, -0.3, 0, 0, yaw_deg))
        return from_scan(ranges, angles, place, CAMERA)

    right = references(0.0)
    relative = np.full((48, 64), 0.5, np.float32)
    for column, depth_m in zip(right.columns, right.depth_m, strict=True):
        relative[:, column] = 0.1 + 0.8 * (depth_m - 1.2) / 3.4

    def problem(found: References) -> str:
        estimator = MetricDepthEstimator(build(ScaleOptions, {'source': 'scan'}), ['depth'])
        measurement = Measurement(found, b'x', np.zeros((48, 64, 3), np.uint8), '/scan')
        predictions = {'depth': DepthMap(relative)}
        return estimator.update(predictions, CAMERA, 1.0, measurement).problem

    assert problem(right) == ''
    for yaw_deg in (-180.0, -20.0, 20.0, 90.0):
        assert problem(references(yaw_deg)) != ''


def test_the_range_is_checked_only_where_there_are_references():
    check_range(References(*np.zeros((2, 0), np.intp), np.zeros(0, np.float32)), (1, 2), '/depth')
