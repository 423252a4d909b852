"""Camera infos: those of real drivers are read, impossible ones are refused with the number."""

from __future__ import annotations

import contextlib
import math
import re
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest
import rclpy.node  # noqa: F401 (this file needs ROS)
from sensor_msgs.msg import CameraInfo, RegionOfInterest
from std_msgs.msg import Header

from sd_perception_ros.ros.messages.camera_info import (
    camera_from_info,
    doubts,
    info_from_camera,
    lens_from_info,
)
from sd_perception_ros.types import Camera

# No square pixels, and no centre in the middle.
CAMERA = Camera(fx=320.0, fy=310.0, cx=300.0, cy=250.0, width=640, height=480)


def good_info() -> CameraInfo:
    return info_from_camera(CAMERA, Header())


def test_a_camera_survives_the_way_through_camera_info():
    for rectified in (False, True):
        assert camera_from_info(good_info(), 640, 480, rectified) == CAMERA


def test_rectified_pictures_use_p():
    info = good_info()
    info.p[0] = 300.0
    assert camera_from_info(info, 640, 480, rectified=True).fx == 300.0
    assert camera_from_info(info, 640, 480, rectified=False).fx == pytest.approx(320.0)


def test_binning_and_region_of_interest_reach_the_camera():
    info = good_info()
    info.binning_x = info.binning_y = 2
    info.roi = RegionOfInterest(x_offset=20, y_offset=80, width=200, height=100)
    camera = camera_from_info(info, 100, 50, rectified=False)
    assert (camera.fx, camera.fy) == (160.0, 155.0)
    assert (camera.cx, camera.cy) == ((300 - 20) / 2, (250 - 80) / 2)


def changed(**change: Any) -> CameraInfo:
    info = good_info()
    for name, value in change.items():
        setattr(info, name, list(map(float, value)) if name in ('k', 'p', 'r', 'd') else value)
    return info


def k_of(fx: float, cx: float, fy: float, cy: float, **others: float) -> list[float]:
    k = [fx, 0.0, cx, 0.0, fy, cy, 0.0, 0.0, 1.0]
    for index, value in others.items():
        k[int(index.removeprefix('k'))] = value
    return k


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        ({'k': [0.0] * 9}, 'K is all zero: calibrate the camera'),
        ({'k': k_of(0.9, 0.5, 1.2, 0.5)}, 'too short for a .* in pixels, not in'),
        ({'k': k_of(1e-300, 320, 1e-300, 240)}, 'focal lengths fx 1e-300 and fy'),
        (
            {'k': k_of(4.0, 320, 4.0, 240)},
            r'fx 4 and fy 4 are too short .* \(178.6 deg',
        ),
        ({'k': k_of(35.0, 320, 35.0, 240)}, r'fx 35 and fy 35 are too short'),
        ({'k': k_of(4e4, 320, 4e4, 240)}, 'too long for a 640 x 480 image'),
        ({'k': k_of(500.0, 320, 90.0, 240)}, 'fx 500 and fy 90 differ by more than 2.5'),
        ({'k': [math.nan] * 9}, 'must be finite'),
        ({'k': [math.inf] * 9}, 'must be finite'),
        ({'k': k_of(-300.0, 320, 300.0, 240)}, 'must be positive, got fx -300'),
        ({'k': k_of(500.0, 9e4, 500.0, 240)}, 'far outside'),
        ({'k': k_of(500.0, 0.0, 500.0, 0.0)}, r'\(0.0, 0.0\) lies in a corner'),
        ({'k': k_of(1000.0, 640, 1000.0, 480)}, r'\(640.0, 480.0\) lies in a corner'),
        ({'k': k_of(500.0, 0.0, 500.0, 0.0, k6=320.0, k7=240.0)}, r'K\[6\] must be 0, got 320'),
        ({'k': k_of(500.0, 320, 500.0, 240, k1=50.0)}, r'K\[1\] must be 0 .* got 50'),
        ({'k': k_of(500.0, 320, 500.0, 240, k8=2.0)}, r'K\[8\] must be 1, got 2'),
        ({'width': 320}, 'is for 320 x 480 pixels .* but the image is 640 x 480'),
        ({'width': 0, 'height': 0}, 'is for 0 x 0 pixels; set its width and height'),
        (
            {'roi': RegionOfInterest(x_offset=100, width=600, height=480)},
            'ends at x = 700, beyond',
        ),
        ({'roi': RegionOfInterest(y_offset=8)}, 'ends at y = 488, beyond the 640 x 480'),
        ({'binning_x': 2}, 'is for 320 x 480 pixels'),
        ({'binning_x': 1000, 'binning_y': 1000}, 'is for 0 x 0 pixels'),
    ],
)
def test_a_wrong_camera_info_says_what_is_wrong(change, words):
    with pytest.raises(ValueError, match=words):
        camera_from_info(changed(**change), 640, 480, rectified=False)


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        ({'p': [math.nan] * 12}, 'P must be finite'),
        ({'p': [1.0, 0, 0, 0, 0, 1.0, 0, 0, 0, 0, 1.0, 0]}, 'fx 1 and fy 1 are too short'),
        ({'r': [2.0, 0, 0, 0, 2.0, 0, 0, 0, 2.0]}, r'R must be a rotation, got \[2.0, 0.0'),
        ({'r': [1.0, 0, 0, 0, 1.0, 0, 0, 0, -1.0]}, 'R must be a rotation'),
        ({'r': [math.nan] * 9}, 'R must be a rotation'),
        ({'distortion_model': 'mystery'}, "unknown CameraInfo.distortion_model 'mystery'"),
        ({'d': [0.1, 0.2]}, "has 2 coefficients, but 'plumb_bob' has 4, 5, 8, 12 or 14"),
        ({'d': [math.nan] * 5}, 'd must be finite'),
        ({'distortion_model': 'none', 'd': [0.1] * 5}, "is 'none', but d is not zero"),
        ({'distortion_model': 'equidistant', 'd': [0.1] * 5}, "but 'equidistant' has 4"),
        ({'distortion_model': 'equidistant', 'd': [0.1] * 3}, "but 'equidistant' has 4"),
    ],
)
def test_what_only_rectification_uses_stops_rectification_and_nothing_else(change, words):
    info = changed(**change)
    with pytest.raises(ValueError, match=words):
        lens_from_info(info, 640, 480)
    assert camera_from_info(info, 640, 480, rectified=False) == CAMERA


FAMILIES = {
    'plumb_bob of 5': ('plumb_bob', [-0.3, 0.1, 0.001, 0.002, 0.0]),
    'plumb_bob of 4': ('plumb_bob', [-0.3, 0.1, 0.001, 0.002]),
    'plumb_bob of 8': ('plumb_bob', [0.4, 0.1, 0.001, 0.0, 0.01, 0.7, 0.2, 0.03]),
    'plumb_bob of 8 zeros': ('plumb_bob', [0.0] * 8),
    '8 zeros without a model': ('', [0.0] * 8),
    'no model and no coefficients': ('', []),
    'none': ('none', []),
    'None with zeros': ('None', [0.0] * 5),
    'rational of 5': ('rational_polynomial', [-0.3, 0.1, 0.001, 0.002, 0.0]),
    'rational of 8': ('rational_polynomial', [0.4, 0.1, 0.001, 0.0, 0.01, 0.7, 0.2, 0.03]),
    'rational of 12': ('rational_polynomial', [0.1] * 2 + [0.001] * 10),
    'rational of 14': ('rational_polynomial', [0.1] * 2 + [0.001] * 12),
    'equidistant': ('equidistant', [-0.03, 0.01, 0.0, 0.0]),
    'equidistant with zeros behind': ('equidistant', [-0.03, 0.01, 0.0, 0.0, 0.0]),
    'fisheye': ('fisheye', [-0.03, 0.01, 0.0, 0.0]),
    'Brown-Conrady': ('Brown-Conrady', [-0.3, 0.1, 0.001, 0.002, 0.0]),
}


@pytest.mark.parametrize('family', FAMILIES)
def test_every_family_of_cameras_is_read(family):
    """No coefficients are needed for points, and all of these can be rectified."""
    model, coefficients = FAMILIES[family]
    info = changed(distortion_model=model, d=coefficients)
    assert camera_from_info(info, 640, 480, rectified=False) == CAMERA
    assert camera_from_info(info, 640, 480, rectified=True) == CAMERA
    assert doubts(info) == []
    lens = lens_from_info(info, 640, 480)
    assert lens.seen > 0.5
    rgb = np.full((480, 640, 3), 90, np.uint8)
    assert lens.rectify(rgb)[250, 300].tolist() == [90, 90, 90]


def test_a_rectified_picture_without_p_has_k_if_the_lens_does_not_distort():
    info = changed(p=[0.0] * 12, d=[])
    assert camera_from_info(info, 640, 480, rectified=True) == CAMERA
    with pytest.raises(ValueError, match='P is all zero'):
        camera_from_info(changed(p=[0.0] * 12, d=[0.1] * 5), 640, 480, rectified=True)


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        (
            {'k': k_of(500.0, 100.0, 500.0, 240.0)},
            r'the principal point \(100, 240\)',
        ),
        ({'k': k_of(100.0, 320.0, 100.0, 240.0)}, 'K has a focal length of 100 for 640 x 480'),
        (
            {'p': [90.0, 0, 320, 0, 0, 90.0, 240, 0, 0, 0, 1.0, 0]},
            'P has the focal length 90 and K 320',
        ),
        ({'r': [2.0] * 9}, 'R must be a rotation'),
        ({'distortion_model': 'mystery'}, "unknown CameraInfo.distortion_model 'mystery'"),
    ],
)
def test_what_is_unusual_or_wrong_but_not_used_is_a_warning(change, words):
    info = changed(**change)
    camera_from_info(info, 640, 480, rectified=False)
    assert [text for text in doubts(info) if re.search(words, text)]
    assert doubts(good_info()) == []


NUMBERS = st.sampled_from([0.0, 1.0, -1.0, 0.5, 320.0, 240.0, 1e-30, 1e30, math.nan, math.inf])


@given(
    k=st.lists(NUMBERS, min_size=9, max_size=9),
    p=st.lists(NUMBERS, min_size=12, max_size=12),
    r=st.lists(NUMBERS, min_size=9, max_size=9),
    d=st.lists(NUMBERS, max_size=15),
    model=st.sampled_from(['', 'plumb_bob', 'equidistant', 'none', 'mystery']),
    size=st.tuples(st.sampled_from([0, 1, 640, 2**32 - 1]), st.sampled_from([0, 1, 480])),
    roi=st.tuples(*[st.sampled_from([0, 1, 200, 2**32 - 1])] * 4),
    binning=st.sampled_from([0, 1, 2, 2**32 - 1]),
    rectified=st.booleans(),
)
def test_any_camera_info_gives_a_camera_of_the_size_or_a_value_error(
    k, p, r, d, model, size, roi, binning, rectified
):
    info = CameraInfo(width=size[0], height=size[1], distortion_model=model, k=k, p=p, r=r, d=d)
    info.binning_x = info.binning_y = binning
    info.roi = RegionOfInterest(x_offset=roi[0], y_offset=roi[1], width=roi[2], height=roi[3])
    for width, height in ((640, 480), (1, 1)):
        with contextlib.suppress(ValueError):
            camera = camera_from_info(info, width, height, rectified)
            assert (camera.width, camera.height) == (width, height)
            assert 0 < camera.fx < math.inf
            assert 0 < camera.fy < math.inf
            doubts(info)
    with contextlib.suppress(ValueError):
        lens_from_info(info, 640, 480)
