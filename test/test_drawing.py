"""Tests of pictures for people."""

from __future__ import annotations

import numpy as np
import pytest

from sd_perception_ros.drawing import bone_side, draw_people, over_checkerboard, SIDE_COLORS
from sd_perception_ros.skeleton import BONES, INDEX
from sd_perception_ros.types import Person, Poses

BLACK = np.zeros((48, 64, 3), np.uint8)


def somebody(**joints: tuple[float, float]) -> Person:
    """Make a person of whom only these joints were found, at (u, v)."""
    made = np.full((17, 3), np.nan, np.float32)
    made[:, 2] = 0
    for name, place in joints.items():
        made[INDEX[name]] = *place, 0.9
    return Person(made, np.isfinite(made[:, 0]), 0.9)


def drawn(*people: Person) -> np.ndarray:
    return draw_people(BLACK, Poses(people, 48, 64))


def test_a_bone_is_drawn_in_the_colour_of_its_side_between_its_joints():
    picture = drawn(somebody(left_elbow=(10, 20), left_wrist=(50, 20)))
    assert picture[20, 30].tolist() == list(SIDE_COLORS['left'])
    assert picture[20, 10].tolist() == list(SIDE_COLORS['left'])
    assert not picture[40:].any()


def test_a_bone_between_the_sides_has_the_colour_of_the_middle():
    picture = drawn(somebody(left_hip=(10, 20), right_hip=(50, 20)))
    assert picture[20, 30].tolist() == list(SIDE_COLORS['middle'])
    assert picture[20, 50].tolist() == list(SIDE_COLORS['right'])


def test_every_bone_has_a_side():
    names = [bone_side(bone) for bone in BONES]
    assert (names.count('left'), names.count('right')) == (8, 8)
    assert bone_side((INDEX['nose'], INDEX['left_eye'])) == 'left'


def test_the_input_image_is_not_modified():
    before = np.full((48, 64, 3), 7, np.uint8)
    before.flags.writeable = False
    after = draw_people(before, Poses((somebody(nose=(5, 5)),), 48, 64))
    assert (before == 7).all()
    assert (after[30:] == 7).all()
    assert (after[5, 5] == SIDE_COLORS['middle']).all()


@pytest.mark.parametrize(
    'people',
    [
        (),
        (somebody(),),
        (somebody(nose=(-40, 1e9), left_eye=(1e30, np.inf)),),
        (somebody(left_knee=(-500, -500)),),
    ],
)
def test_no_people_and_joints_outside_do_not_change_the_image(people):
    assert not drawn(*people).any()


def test_foreground_keeps_its_colour_and_the_rest_is_a_checkerboard():
    rgb = np.full((32, 32, 3), (200, 10, 60), np.uint8)
    alpha = np.zeros((32, 32), np.float32)
    alpha[:, 16:] = 1
    alpha[0, 0] = 0.5
    shown = over_checkerboard(rgb, alpha)
    assert (shown[:, 16:] == (200, 10, 60)).all()
    assert (shown[1, 1].tolist(), shown[20, 1].tolist()) == ([102] * 3, [153] * 3)
    assert np.abs(shown[0, 0].astype(int) - (151, 56, 81)).max() <= 1
