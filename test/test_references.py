"""References from depth images, scans, the ground and people; the filter over time."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from sd_perception_ros.geometry.pinhole import BODY_FROM_OPTICAL, mounting, rays
from sd_perception_ros.metric_depth.ground import find_ground, up_from_pitch
from sd_perception_ros.metric_depth.references import (
    from_depth,
    from_depth_camera,
    from_people,
    from_points,
    from_scan,
)
from sd_perception_ros.metric_depth.scale import ScaleShift
from sd_perception_ros.metric_depth.scale_filter import (
    FilterOptions,
    FrozenSensorDetector,
    ScaleFilter,
)
from sd_perception_ros.skeleton import INDEX
from sd_perception_ros.types import Camera, Person, Poses

# Non-square pixels, and an off-centre principal point.
CAMERA = Camera(fx=100.0, fy=80.0, cx=76.0, cy=63.0, width=160, height=120)


def as_list(references) -> list[tuple[int, int, float]]:
    return list(
        zip(
            references.rows.tolist(),
            references.columns.tolist(),
            references.depth_m.round(4).tolist(),
            strict=True,
        )
    )


# ---- Depth images -------------------------------------------------------------------------------


def test_only_pixels_with_a_depth_are_references():
    depth_m = np.array([[np.nan, 2.0, 0.0], [np.inf, -1.0, 3.5]], np.float32)
    assert as_list(from_depth(depth_m)) == [(0, 1, 2.0), (1, 2, 3.5)]


def test_a_dense_depth_image_is_sampled_evenly():
    sample = from_depth(np.ones((480, 640), np.float32), max_count=4000)
    assert len(sample) == 4000
    counts = np.histogram2d(sample.rows, sample.columns, (6, 8))[0]
    assert counts.min() > 0.7 * 4000 / 48


def test_a_depth_image_of_half_the_size_is_reprojected():
    """Pixel (30, 20) of the half-size image has the ray of pixel (60.5, 40.5)."""
    depth_camera = Camera(fx=50.0, fy=40.0, cx=37.75, cy=31.25, width=80, height=60)
    depth_m = np.full((60, 80), np.nan, np.float32)
    depth_m[20, 30] = 2.0
    [(row, column, depth)] = as_list(from_depth_camera(from_depth(depth_m), depth_camera, CAMERA))
    assert (abs(row - 40.5), abs(column - 60.5), depth) == (0.5, 0.5, 2.0)


def test_points_behind_the_camera_or_outside_the_image_are_left_out():
    points = np.array([[0, 0, 2], [0, 0, -2], [9, 0, 2], [np.nan, 0, 2]], np.float32)
    assert as_list(from_points(points, CAMERA)) == [(63, 76, 2.0)]


# ---- Scans --------------------------------------------------------------------------------------


def test_a_forward_beam_is_projected_into_the_image():
    """The scanner is 0.2 m below the camera: its wall at 2 m is 0.2 / 2 * 80 = 8 px lower."""
    optical_from_scan = BODY_FROM_OPTICAL.inverse().after(mounting(0, 0, -0.2, 0, 0, 0))
    ranges = np.array([2.0, np.inf, np.nan, 0.0, 2.0], np.float32)
    angles = np.array([0.0, 0.0, 0.0, 0.0, math.pi], np.float32)
    references = from_scan(ranges, angles, optical_from_scan, CAMERA)
    assert as_list(references) == [(71, 76, 2.0)]


def test_a_beam_to_the_left_is_on_the_left_of_the_image():
    references = from_scan(
        np.array([math.sqrt(2)], np.float32),
        np.array([math.pi / 8], np.float32),
        BODY_FROM_OPTICAL.inverse(),
        CAMERA,
    )
    [(_, column, depth)] = as_list(references)
    assert column == round(76 - 100 * math.tan(math.pi / 8))
    assert depth == pytest.approx(math.sqrt(2) * math.cos(math.pi / 8), rel=1e-4)


# ---- The ground ---------------------------------------------------------------------------------


def room(pitch_deg: float, height_m: float, roll_deg: float = 0.0) -> tuple[np.ndarray, ...]:
    """Return depth and normals of a floor and a wall 5 m ahead."""
    rows, columns = np.indices((120, 160))
    ray = rays(rows, columns, CAMERA)
    roll = math.radians(roll_deg)
    rotation = np.array(
        [[math.cos(roll), -math.sin(roll), 0], [math.sin(roll), math.cos(roll), 0], [0, 0, 1]]
    )
    up = rotation @ up_from_pitch(pitch_deg)
    ahead = np.array([0, 0, 1]) - up * up[2]
    ahead /= np.linalg.norm(ahead)
    down = -(ray @ up)
    floor_m = np.where(down > 1e-6, height_m / np.maximum(down, 1e-6), np.inf)
    wall_m = 5 / (ray @ ahead)
    is_floor = floor_m < wall_m
    normals = np.where(is_floor[..., None], up, -ahead).astype(np.float32)
    return np.where(is_floor, floor_m, wall_m), normals, is_floor


@given(
    pitch=st.floats(0, 40),
    height=st.floats(0.2, 2),
    roll=st.floats(-10, 10),
    off=st.floats(-15, 15),
)
def test_the_ground_is_found_with_a_rough_pitch(pitch, height, roll, off):
    depth_m, normals, is_floor = room(pitch, height, roll)
    ground = find_ground(normals, CAMERA, height, pitch + off)
    rows, columns = ground.references.rows, ground.references.columns
    if is_floor.mean() > 0.05:
        assert len(rows) > 20
    assert is_floor[rows, columns].all()
    np.testing.assert_allclose(ground.references.depth_m, depth_m[rows, columns], rtol=1e-2)


def test_noise_of_the_normals_changes_the_scale_by_less_than_5_percent():
    depth_m, normals, _ = room(15, 1.0)
    noisy = normals + np.random.default_rng(0).normal(0, 0.15, normals.shape).astype(np.float32)
    noisy /= np.linalg.norm(noisy, axis=-1, keepdims=True)
    references = find_ground(noisy, CAMERA, 1.0, 10.0).references
    ratio = references.depth_m / depth_m[references.rows, references.columns]
    assert abs(np.median(ratio) - 1) < 0.05


def test_without_a_floor_there_are_no_references():
    normals = np.zeros((120, 160, 3), np.float32)
    normals[..., 2] = -1
    assert len(find_ground(normals, CAMERA, 1.0, 0.0).references) == 0
    _, normals, _ = room(15, 1.0)
    nowhere = np.zeros((120, 160), bool)
    assert len(find_ground(normals, CAMERA, 1.0, 15.0, nowhere).references) == 0


def test_pixels_below_a_table_that_is_taken_for_the_ground_are_counted():
    """The camera is 1 m above the floor; half of the floor is below the detected plane."""
    depth_m, normals, is_floor = room(20, 1.0)
    table = is_floor & (np.arange(160) < 80)
    ground = find_ground(normals, CAMERA, 0.4, 20.0, table)
    assert ground.share_below(depth_m, CAMERA) > 0.4
    assert find_ground(normals, CAMERA, 1.0, 20.0).share_below(depth_m, CAMERA) < 0.02


# ---- People -------------------------------------------------------------------------------------


def person_with(**joints: tuple[float, float]) -> Person:
    values = np.full((17, 3), np.nan, np.float32)
    for name, uv in joints.items():
        values[INDEX[name]] = *uv, 0.9
    return Person(values, np.isfinite(values[:, 0]), 0.9)


UPRIGHT = {
    'left_eye': (82, 10),
    'right_eye': (78, 10),
    'left_ankle': (85, 90),
    'right_ankle': (75, 90),
}


def test_the_depth_of_a_person_follows_from_the_stature():
    """Eyes to ankles are 0.897 of 1.7 m; 80 px at a focal length of 80 px are 1.525 m."""
    references = from_people(Poses((person_with(**UPRIGHT),), 120, 160), CAMERA, 1.7)
    assert as_list(references) == [(50, 80, pytest.approx(1.7 * 0.897, abs=1e-3))]


@pytest.mark.parametrize(
    'joints',
    [
        {name: uv for name, uv in UPRIGHT.items() if name != 'left_ankle'},
        UPRIGHT | {'left_ankle': (5, 12), 'right_ankle': (5, 12)},  # lies
        UPRIGHT | {'left_ankle': (82, 20), 'right_ankle': (78, 20)},  # a few pixels tall
        UPRIGHT | {'left_eye': (82, 290), 'right_eye': (78, 290)},
    ],
)
def test_people_who_are_not_fully_visible_and_upright_are_no_references(joints):
    assert len(from_people(Poses((person_with(**joints),), 120, 160), CAMERA, 1.7)) == 0
    assert len(from_people(Poses((), 120, 160), CAMERA, 1.7)) == 0


# ---- Over time ----------------------------------------------------------------------------------


def depths(line: ScaleShift) -> list[float]:
    return line.depth_m(np.array([0.25, 0.75])).round(4).tolist()


@pytest.mark.parametrize('inverse', [False, True])
def test_a_constant_scale_passes_the_filter_unchanged(inverse):
    scale_filter = ScaleFilter(FilterOptions())
    for frame in range(5):
        filtered = scale_filter.update(ScaleShift(0.4, 0.2, inverse), frame / 10)
        assert (filtered.scale, filtered.shift, filtered.inverse) == (
            pytest.approx(0.4),
            pytest.approx(0.2),
            inverse,
        )


def test_after_one_time_constant_a_step_is_followed_to_63_percent():
    scale_filter = ScaleFilter(FilterOptions(time_constant_s=0.3))
    scale_filter.update(ScaleShift(4.0, 1.0), 0.0)
    stepped = scale_filter.update(ScaleShift(4.4, 1.1), 0.3)
    assert math.log(depths(stepped)[0] / 2.0) == pytest.approx(0.632 * math.log(1.1), abs=1e-3)


def test_a_single_outlier_is_rejected():
    scale_filter = ScaleFilter(FilterOptions(gate=0.3, persistence=3))
    scale_filter.update(ScaleShift(4.0, 1.0), 0.0)
    assert scale_filter.update(ScaleShift(8.0, 2.0), 0.1) is None
    assert depths(scale_filter.update(ScaleShift(4.0, 1.0), 0.2)) == [2.0, 4.0]


def test_a_lasting_jump_is_accepted_after_three_frames():
    scale_filter = ScaleFilter(FilterOptions(gate=0.3, persistence=3))
    scale_filter.update(ScaleShift(4.0, 1.0), 0.0)
    filtered = [scale_filter.update(ScaleShift(8.0, 2.0), 0.1 * n) for n in (1, 2, 3)]
    assert filtered[:2] == [None, None]
    assert depths(filtered[2]) == [4.0, 8.0]


def test_outliers_that_disagree_are_all_rejected():
    scale_filter = ScaleFilter(FilterOptions(gate=0.3, persistence=3))
    scale_filter.update(ScaleShift(4.0, 1.0), 0.0)
    factors = [2, 4, 8, 2, 4, 8]
    filtered = [
        scale_filter.update(ScaleShift(4.0 * f, 1.0 * f), 0.1 * n) for n, f in enumerate(factors)
    ]
    assert filtered == [None] * 6


@pytest.mark.parametrize('next_s', [-5.0, 9.0])
def test_a_jump_in_time_resets_the_filter(next_s):
    scale_filter = ScaleFilter(FilterOptions())
    scale_filter.update(ScaleShift(4.0, 1.0), 0.0)
    assert depths(scale_filter.update(ScaleShift(8.0, 2.0), next_s)) == [4.0, 8.0]


@given(st.lists(st.floats(0.75, 1.3), min_size=2, max_size=30), st.booleans())
def test_the_filtered_scale_varies_less_than_the_measured_one(factors, inverse):
    scale_filter = ScaleFilter(FilterOptions(gate=1.0))
    lines = [ScaleShift(0.4 * f, 0.2 * f, inverse) for f in factors]
    filtered = [depths(scale_filter.update(line, n / 10)) for n, line in enumerate(lines)]
    measured = np.log([depths(line) for line in lines])
    assert (np.abs(np.diff(np.log(filtered), axis=0)) <= np.ptp(measured) + 1e-3).all()
    assert np.log(filtered).min() >= measured.min() - 1e-3
    assert np.log(filtered).max() <= measured.max() + 1e-3


def image(level: int) -> np.ndarray:
    return np.full((48, 64, 3), level, np.uint8)


def test_a_sensor_that_repeats_its_data_while_the_image_changes_is_frozen():
    detector = FrozenSensorDetector()
    is_frozen = [detector.is_frozen(b'same', image(level)) for level in (100, 101, 102, 103, 120)]
    assert is_frozen == [False, False, False, True, True]
    assert not detector.is_frozen(b'new', image(140))


def test_a_sensor_that_repeats_its_data_in_a_static_scene_is_not_frozen():
    detector = FrozenSensorDetector()
    assert [detector.is_frozen(b'same', image(100)) for _ in range(9)] == [False] * 9


def test_somebody_who_walks_in_a_part_of_the_image_shows_a_frozen_sensor():
    detector = FrozenSensorDetector()
    walks = image(100)
    walks[10:40, 20:30] = 140
    assert [detector.is_frozen(b'same', rgb) for rgb in (image(100), walks)] == [False, True]


def test_buffers_that_are_sent_in_turn_are_a_frozen_sensor():
    detector = FrozenSensorDetector()
    frozen = [detector.is_frozen(b'ABC'[n % 3 :][:1], image(80 + 10 * n)) for n in range(9)]
    assert frozen == [False] * 3 + [True] * 6
