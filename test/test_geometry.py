"""Tests of pinhole geometry and of the way from relative depth to metres."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from sd_perception_ros.alignment import to_metres
from sd_perception_ros.geometry import (
    back_project,
    camera_from_fov,
    crop_and_bin,
    resize_camera,
)
from sd_perception_ros.types import Camera

CAMERA = Camera(fx=10.0, fy=20.0, cx=2.0, cy=1.0, width=5, height=3)


def test_a_pixel_on_the_optical_axis_lifts_straight_ahead():
    points = back_project(np.full((3, 5), 2.0, np.float32), CAMERA)
    assert points[1, 2].tolist() == [0.0, 0.0, 2.0]


def test_x_grows_to_the_right_and_y_downwards():
    points = back_project(np.full((3, 5), 10.0, np.float32), CAMERA)
    np.testing.assert_allclose(points[2, 4], [2.0, 0.5, 10.0], rtol=1e-6)


@pytest.mark.parametrize('unknown', [np.nan, np.inf, -np.inf])
def test_a_pixel_without_depth_is_not_a_point(unknown):
    depth_m = np.full((3, 5), 2.0, np.float32)
    depth_m[0, 0] = unknown
    points = back_project(depth_m, CAMERA)
    assert np.isnan(points[0, 0]).all()
    assert np.isfinite(points).sum() == 14 * 3


@given(stride=st.integers(1, 7), seed=st.integers(0, 20))
def test_a_stride_takes_a_subset_of_the_full_cloud(stride, seed):
    depth_m = np.random.default_rng(seed).random((3, 5), np.float32) + 1
    full = back_project(depth_m, CAMERA)
    np.testing.assert_array_equal(back_project(depth_m, CAMERA, stride), full[::stride, ::stride])


def test_points_project_back_onto_their_pixels():
    depth_m = np.random.default_rng(1).random((3, 5), np.float32) + 1
    x, y, z = np.moveaxis(back_project(depth_m, CAMERA), -1, 0)
    u, v = np.meshgrid(np.arange(5), np.arange(3))
    np.testing.assert_allclose(x / z * CAMERA.fx + CAMERA.cx, u, atol=1e-5)
    np.testing.assert_allclose(y / z * CAMERA.fy + CAMERA.cy, v, atol=1e-5)


def test_a_camera_of_another_size_is_refused():
    with pytest.raises(ValueError, match='camera is 5 x 3 pixels but the depth map is 4 x 3'):
        back_project(np.ones((3, 4), np.float32), CAMERA)


def test_a_right_angle_of_view_has_a_focal_length_of_half_the_width():
    camera = camera_from_fov(640, 480, 90.0)
    assert camera.fx == pytest.approx(320.0)
    assert (camera.cx, camera.cy) == (319.5, 239.5)


@pytest.mark.parametrize('angle_deg', [0.0, 180.0, -5.0, math.nan])
def test_an_impossible_field_of_view_is_refused(angle_deg):
    with pytest.raises(ValueError, match='between 0 and 180'):
        camera_from_fov(640, 480, angle_deg)


def test_resizing_keeps_a_centred_camera_centred():
    camera = resize_camera(camera_from_fov(640, 480, 60.0), 320, 240)
    assert (camera.cx, camera.cy) == (159.5, 119.5)
    assert camera.fx == pytest.approx(camera_from_fov(320, 240, 60.0).fx)


def test_a_region_of_interest_moves_the_principal_point_and_binning_scales_it():
    full = Camera(fx=600.0, fy=600.0, cx=320.0, cy=240.0, width=640, height=480)
    part = crop_and_bin(full, 100, 40, 200, 400, binning_x=2, binning_y=4)
    assert part == Camera(fx=300.0, fy=150.0, cx=110.0, cy=50.0, width=100, height=100)


def test_metres_are_scale_times_relative_plus_shift():
    relative = np.array([[0.25, 0.5, 0.75]], np.float32)
    assert to_metres(relative, 4.0, 1.0).tolist() == [[2.0, 3.0, 4.0]]


def test_out_of_range_is_infinite_and_never_clipped():
    relative = np.array([[0.01, 0.5, 0.9, np.nan]], np.float32)
    depth_m = to_metres(relative, 10.0, 0.0, min_range_m=0.3, max_range_m=8.0)
    np.testing.assert_array_equal(depth_m, [[-np.inf, 5.0, np.inf, np.nan]])


def test_the_sky_is_no_wall_and_the_nearest_is_no_distance():
    """Relative depth ends at 0 and 1, so there it says only `nearer` and `farther`."""
    relative = np.array([[0.0, 0.5, 1.0]], np.float32)
    depth_m = to_metres(relative, 4.0, 1.0)
    assert depth_m.tolist() == [[-np.inf, 3.0, np.inf]]
    points = back_project(depth_m, Camera(fx=1.0, fy=1.0, cx=1.0, cy=0.0, width=3, height=1))
    assert np.isfinite(points).all(-1).tolist() == [[False, True, False]]


def test_nothing_lies_behind_the_camera():
    relative = np.array([[0.2, 0.25, 0.5]], np.float32)
    assert to_metres(relative, 4.0, -1.0).tolist() == [[-np.inf, -np.inf, 1.0]]


@pytest.mark.parametrize('scale_m', [0.0, -1.0, math.nan, math.inf])
def test_a_scale_that_is_not_positive_is_refused(scale_m):
    with pytest.raises(ValueError, match='positive and finite'):
        to_metres(np.zeros((1, 1), np.float32), scale_m, 0.0)
