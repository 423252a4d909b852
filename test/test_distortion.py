"""Rectification by the CameraInfo of real lenses."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from sensor_msgs.msg import CameraInfo

from sd_perception_ros.ros.messages.camera_info import (
    camera_from_info,
    is_distorted,
    lens_from_info,
)
from sd_perception_ros.types import Camera

# A lens that bends by some pixels, in each model's own terms.
MODELS = {
    'plumb_bob': (-0.3, 0.1, 0.001, -0.002, 0.0),
    'rational_polynomial': (0.4, 0.1, 0.001, 0.0, 0.01, 0.7, 0.2, 0.03),
    'equidistant': (-0.03, 0.01, 0.0, 0.0),
}
# No square pixels, and no centre in the middle.
K = [200.0, 0.0, 159.5, 0.0, 210.0, 112.5, 0.0, 0.0, 1.0]


def info_of(model: str, coefficients: tuple[float, ...], **changed: object) -> CameraInfo:
    info = CameraInfo(width=320, height=240, distortion_model=model, d=list(coefficients), k=K)
    info.r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    info.p = [180.0, 0.0, 160.0, 0.0, 0.0, 170.0, 118.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    for name, value in changed.items():
        setattr(info, name, value)
    return info


def distort(model: str, coefficients: tuple[float, ...], rays: np.ndarray) -> np.ndarray:
    """Project (N, 3) points through a lens with OpenCV's own projection, (N, 2)."""
    matrix, zero = np.array(K).reshape(3, 3), np.zeros(3)
    if model == 'equidistant':
        points = cv2.fisheye.projectPoints(
            rays[:, None], zero, zero, matrix, np.array(coefficients)
        )
    else:
        points = cv2.projectPoints(rays, zero, zero, matrix, np.array(coefficients))
    return points[0].reshape(-1, 2)


def dots(centers: np.ndarray, height: int = 240, width: int = 320) -> np.ndarray:
    """Draw soft white dots."""
    v, u = np.indices((height, width))
    shape = sum(np.exp(-((u - x) ** 2 + (v - y) ** 2) / 8) for x, y in centers)
    return np.repeat((255 * np.clip(shape, 0, 1)).astype(np.uint8)[..., None], 3, 2)


def dot_near(rgb: np.ndarray, center: np.ndarray) -> np.ndarray:
    """Return the measured centre of the dot near (u, v)."""
    u, v = np.round(center).astype(int)
    part = rgb[v - 6 : v + 7, u - 6 : u + 7, 0].astype(float)
    rows, columns = np.indices(part.shape)
    return np.array([(columns * part).sum(), (rows * part).sum()]) / part.sum() + [u - 6, v - 6]


@pytest.mark.parametrize('model', MODELS)
def test_a_rectified_point_is_at_its_pinhole_projection(model):
    rays = np.array([[x, y, 1.0] for x in (-0.5, 0.0, 0.5) for y in (-0.35, 0.0, 0.35)])
    info = info_of(model, MODELS[model])
    raw = distort(model, MODELS[model], rays)
    camera = camera_from_info(info, 320, 240, rectified=True)
    ideal = rays[:, :2] * [camera.fx, camera.fy] + [camera.cx, camera.cy]
    assert np.abs(raw - (rays[:, :2] * [200, 210] + [159.5, 112.5])).max() > 3  # it bends
    rectified = lens_from_info(info, 320, 240).rectify(dots(raw))
    for center in ideal:
        np.testing.assert_allclose(dot_near(rectified, center), center, atol=0.35)


@pytest.mark.parametrize('model', MODELS)
def test_without_p_the_rectified_camera_is_k(model):
    lens = lens_from_info(info_of(model, MODELS[model], p=[0.0] * 12), 320, 240)
    assert lens.rectified == Camera(200.0, 210.0, 159.5, 112.5, 320, 240)


@pytest.mark.parametrize('model', ['', 'plumb_bob', 'rational_polynomial'])
def test_a_lens_without_distortion_changes_nothing(model):
    info = info_of(model, (), p=[0.0] * 12)
    rgb = np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8)
    difference = lens_from_info(info, 320, 240).rectify(rgb).astype(int) - rgb
    assert np.abs(difference).max() <= 1


def test_binning_and_a_region_of_interest_are_regarded():
    """A quarter of the image at half the resolution has the same dots."""
    info = info_of('plumb_bob', MODELS['plumb_bob'])
    info.roi.x_offset, info.roi.y_offset, info.roi.width, info.roi.height = 80, 60, 160, 120
    info.binning_x = info.binning_y = 2
    rays = np.array([[0.15, 0.1, 1.0], [-0.15, -0.1, 1.0]])
    raw = (distort('plumb_bob', MODELS['plumb_bob'], rays) - [80, 60]) / 2
    lens = lens_from_info(info, 80, 60)
    ideal = rays[:, :2] * [90, 85] + [(160 - 80) / 2, (118 - 60) / 2]
    assert lens.rectified == Camera(90.0, 85.0, 40.0, 29.0, 80, 60)
    rectified = lens.rectify(dots(raw, 60, 80))
    for center in ideal:
        np.testing.assert_allclose(dot_near(rectified, center), center, atol=0.35)


def test_the_rotation_of_the_rectified_camera_is_applied():
    """R is a rotation by 5 degrees: the optical axis moves by 180 * tan(5 deg) px."""
    cos, sin = np.cos(np.radians(5)), np.sin(np.radians(5))
    info = info_of('plumb_bob', (0.0,) * 5, r=np.array([cos, 0, sin, 0, 1, 0, -sin, 0, cos]))
    rectified = lens_from_info(info, 320, 240).rectify(dots(np.array([[159.5, 112.5]])))
    expected = [160 + 180 * np.tan(np.radians(5)), 118]
    np.testing.assert_allclose(dot_near(rectified, np.array(expected)), expected, atol=0.35)


def test_an_equidistant_lens_without_coefficients_is_distorted():
    """A fisheye's radius grows with the angle: 45 degrees lie at f * pi / 4 and not at f."""
    info = info_of('equidistant', (0.0,) * 4)
    assert is_distorted(info)
    assert not is_distorted(info_of('plumb_bob', (0.0,) * 5))
    lens = lens_from_info(info, 320, 240)
    rectified = lens.rectify(dots(np.array([[159.5 - 200 * np.pi / 6, 112.5]])))
    expected = np.array([160 - 180 * np.tan(np.pi / 6), 118])
    np.testing.assert_allclose(dot_near(rectified, expected), expected, atol=0.35)


def test_coefficients_that_do_not_fit_the_camera_show_in_what_is_left_of_the_picture():
    good, wild = (info_of('plumb_bob', (k1, 0.0, 0.0, 0.0, 0.0)) for k1 in (-0.3, 900.0))
    assert lens_from_info(good, 320, 240).seen > 0.8
    assert lens_from_info(wild, 320, 240).seen < 0.1
