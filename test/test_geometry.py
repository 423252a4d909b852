"""Tests of pinhole geometry: cameras, points, and frames that are turned and moved."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from sd_perception_ros.geometry.pinhole import (
    back_project,
    BODY_FROM_OPTICAL,
    camera_from_fov,
    crop_and_bin,
    mounting,
    project,
    rays,
    resize_camera,
    rotation_from_quaternion,
)
from sd_perception_ros.types import Camera

CAMERA = Camera(fx=10.0, fy=20.0, cx=2.0, cy=1.0, width=5, height=3)


def test_the_principal_point_is_back_projected_onto_the_optical_axis():
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


def test_a_field_of_view_of_90_degrees_has_a_focal_length_of_half_the_width():
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


def test_optical_z_is_body_x():
    """The optical frame is right, down, forward; a body's is forward, left, up."""
    points = np.array([[1.0, 2.0, 3.0]])
    assert BODY_FROM_OPTICAL.apply(points).tolist() == [[3.0, -1.0, -2.0]]


def test_a_body_with_a_pitch_of_90_degrees_points_down():
    parent_from_child = mounting(1.0, 0.0, 2.0, 0.0, 90.0, 0.0)
    np.testing.assert_allclose(
        parent_from_child.apply(np.array([[0.5, 0.0, 0.0]])), [[1, 0, 1.5]], atol=1e-9
    )


def test_a_body_with_a_yaw_of_90_degrees_points_left():
    parent_from_child = mounting(0.0, 0.0, 0.0, 0.0, 0.0, 90.0)
    np.testing.assert_allclose(
        parent_from_child.apply(np.array([[2.0, 0.0, 1.0]])), [[0, 2, 1]], atol=1e-9
    )


ANGLES = st.floats(-180, 180)


@given(ANGLES, ANGLES, ANGLES, st.integers(0, 99))
def test_a_transform_and_its_inverse_give_the_identity(roll, pitch, yaw, seed):
    there = mounting(1.0, -2.0, 3.0, roll, pitch, yaw)
    points = np.random.default_rng(seed).normal(size=(4, 3))
    np.testing.assert_allclose(there.inverse().after(there).apply(points), points, atol=1e-9)
    np.testing.assert_allclose(there.inverse().apply(there.apply(points)), points, atol=1e-9)


@given(ANGLES)
def test_a_quaternion_rotates_by_its_angle(yaw):
    half = math.radians(yaw) / 2
    turned = rotation_from_quaternion(0.0, 0.0, math.sin(half), math.cos(half))
    np.testing.assert_allclose(turned, mounting(0, 0, 0, 0, 0, yaw).rotation, atol=1e-9)


def test_a_quaternion_of_zeros_is_refused():
    with pytest.raises(ValueError, match='normalized quaternion, got one of length 0'):
        rotation_from_quaternion(0.0, 0.0, 0.0, 0.0)


def test_rays_of_pixels_project_onto_the_pixels():
    rows, columns = np.indices((3, 5)).reshape(2, -1)
    uv = project(rays(rows, columns, CAMERA) * np.float32(2.5), CAMERA)
    np.testing.assert_allclose(uv, np.stack([columns, rows], 1), atol=1e-5)
