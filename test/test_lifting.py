"""Tests of joints in space, with scenes that can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from sd_perception_ros.geometry.keypoints_3d import joints_from_depth, joints_on_plane
from sd_perception_ros.skeleton import INDEX
from sd_perception_ros.types import Camera, Person, Poses

# No square pixels, and no centre in the middle: at 2 m, 10 px to the right of the axis are 0.2 m,
# but 10 px below it are 0.4 m.
CAMERA = Camera(fx=100, fy=50, cx=50, cy=30, width=100, height=80)
NOSE, WRIST = INDEX['nose'], INDEX['left_wrist']


def poses(*people: dict[int, tuple[float, float]]) -> Poses:
    """Make people with these visible joints alone, at (u, v)."""
    people_found = []
    for joint_uv in people:
        joints = np.full((17, 3), np.nan, np.float32)
        joints[:, 2] = 0
        for joint, uv in joint_uv.items():
            joints[joint] = *uv, 0.9
        people_found.append(Person(joints, np.isfinite(joints[:, 0]), 0.9))
    return Poses(tuple(people_found), 80, 100)


def wall(depth_m: float = 2.0) -> np.ndarray:
    return np.full((80, 100), depth_m, np.float32)


def joint_at(depth_m: np.ndarray, u: float = 60.0, v: float = 50.0) -> list[float]:
    [person] = joints_from_depth(poses({NOSE: (u, v)}), depth_m, CAMERA)
    assert np.isnan(np.delete(person, NOSE, 0)).all()
    return person[NOSE].tolist()


def test_a_joint_on_a_wall_lies_on_its_ray_at_the_depth_of_the_wall():
    assert joint_at(wall()) == pytest.approx([0.2, 0.8, 2.0])
    assert joint_at(wall(), 50.0, 30.0) == pytest.approx([0.0, 0.0, 2.0])


def test_a_person_in_front_of_a_wall_gives_the_depth_of_the_person():
    """3 of the 7 columns are arm: more than a third of the window."""
    depth_m = wall(5.0)
    depth_m[:, 58:61] = 2.0
    assert joint_at(depth_m, 60.0) == pytest.approx([0.2, 0.8, 2.0])


def test_a_person_in_front_of_the_open_sky_gives_the_depth_of_the_person():
    """4 of the 7 columns have a depth: more than half."""
    depth_m = wall(np.inf)
    depth_m[:, :61] = 2.0
    assert joint_at(depth_m, 60.0)[2] == pytest.approx(2.0)


def test_single_pixels_that_are_too_near_do_not_count():
    depth_m = wall()
    depth_m[49, 59:63] = 0.3
    assert joint_at(depth_m)[2] == pytest.approx(2.0)


def test_a_joint_with_depth_in_less_than_half_of_its_window_is_nan():
    depth_m = wall(np.nan)
    depth_m[:, :60] = 2.0  # 3 of 7 columns
    assert np.isnan(joint_at(depth_m)).all()


def test_a_joint_on_a_steep_slope_is_nan():
    """From 1 m to 4 m in the window of 7 columns: no third of it lies within 0.15 m."""
    depth_m = wall()
    depth_m[:, 57:64] = np.linspace(1, 4, 7)
    assert np.isnan(joint_at(depth_m)).all()


@pytest.mark.parametrize(('u', 'v'), [(-1, 40), (100, 40), (50, 80), (1e9, 40), (np.nan, 1)])
def test_a_joint_outside_the_image_is_nan(u, v):
    assert np.isnan(joint_at(wall(), u, v)).all()


def test_half_of_a_window_may_be_outside_the_image():
    assert joint_at(wall(), 99.0, 30.0) == pytest.approx([0.98, 0.0, 2.0])


def test_an_occluded_joint_is_nan():
    people = poses({NOSE: (60, 50), WRIST: (50, 30)})
    people.people[0].visible[NOSE] = False
    [person] = joints_from_depth(people, wall(), CAMERA)
    assert np.isnan(person[NOSE]).all()
    assert person[WRIST].tolist() == [0.0, 0.0, 2.0]


def test_the_window_grows_with_the_person():
    """A person 300 px tall is read at every second pixel: a bar of 9 px fills 5 of 7 columns."""
    camera = Camera(fx=100, fy=50, cx=50, cy=150, width=100, height=400)
    depth_m = np.full((400, 100), 5.0, np.float32)
    depth_m[:, 46:55] = 2.0
    depth_m[:, 49:52] = np.nan  # 3 px: most of a small window's columns, one of a large one's
    small = Poses(poses({NOSE: (50, 50)}).people, 400, 100)
    tall = Poses(poses({NOSE: (50, 50), WRIST: (50, 350)}).people, 400, 100)
    assert joints_from_depth(tall, depth_m, camera)[0, NOSE, 2] == pytest.approx(2.0)
    assert joints_from_depth(small, depth_m, camera)[0, NOSE, 2] == pytest.approx(2.0)
    depth_m[:, 48:53] = np.nan  # 5 of 7 columns of the small window
    assert joints_from_depth(tall, depth_m, camera)[0, NOSE, 2] == pytest.approx(2.0)
    assert np.isnan(joints_from_depth(small, depth_m, camera)[0, NOSE]).all()


def test_without_people_there_are_no_joints():
    assert joints_from_depth(poses(), wall(), CAMERA).shape == (0, 17, 3)
    assert joints_from_depth(poses({}), wall(), CAMERA).shape == (1, 17, 3)
    assert joints_on_plane(poses(), CAMERA, 1.0).shape == (0, 17, 3)


def test_another_image_size_is_refused():
    with pytest.raises(ValueError, match='must have the same'):
        joints_from_depth(poses(), wall()[:40], CAMERA)


def test_without_depth_all_detected_joints_are_on_a_plane():
    people = poses({NOSE: (60, 50), WRIST: (-50, 30)})
    people.people[0].visible[NOSE] = False
    [person] = joints_on_plane(people, CAMERA, 3.0)
    assert person[NOSE].tolist() == pytest.approx([0.3, 1.2, 3.0])
    assert person[WRIST].tolist() == pytest.approx([-3.0, 0.0, 3.0])
    assert np.isnan(np.delete(person, [NOSE, WRIST], 0)).all()
