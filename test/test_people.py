"""Tests of the people in the rooms: their joints, who hides whom, what they cover."""

from __future__ import annotations

import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from test_synthetic import GRAY, scene_of, view_at, wall_at

from sd_perception_ros.cli import synthesize
from sd_perception_ros.skeleton import INDEX
from sd_perception_ros.synthetic.baking import pushed_out, random_clothes, random_turns
from sd_perception_ros.synthetic.bodies import Bodies, digest, EYES, HAIR, SKIN, TOP
from sd_perception_ros.synthetic.dataset import frame_key, Recipe, write_dataset
from sd_perception_ros.synthetic.items import person
from sd_perception_ros.synthetic.joints import catalog_joints, figures
from sd_perception_ros.synthetic.layout import Layout
from sd_perception_ros.synthetic.meshes import box, limb
from sd_perception_ros.synthetic.render import radiance
from sd_perception_ros.synthetic.scene import FURNITURE, PERSON, WALL
from sd_perception_ros.synthetic.solids import Solids, stand_in

BACK = (wall_at(9.0), WALL)


def post(x, y):
    """Return a person like a post of 2 m and its joints: all on its axis, 10 cm apart."""
    joints = np.array([(x, y, 0.2 + 0.1 * number) for number in range(17)], np.float32)
    return box((0.2, 0.2, 2.0), GRAY, (x, y, 0)), joints


def test_a_figure_of_solids_has_its_joints():
    rng = np.random.default_rng(0)
    for _ in range(20):
        item = stand_in(rng)
        corners = item.mesh.points.reshape(-1, 3)
        np.testing.assert_allclose(corners.min(0)[:2], -corners.max(0)[:2], atol=1e-5)
        assert corners[:, 2].min() == pytest.approx(0, abs=1e-6)
        at = {name: item.joints_m[index] for name, index in INDEX.items()}
        assert at['left_shoulder'][0] > at['right_shoulder'][0]  # front towards -y: left is +x
        assert at['nose'][1] < at['left_ear'][1]
        assert at['nose'][2] > at['left_hip'][2] > at['left_knee'][2] > at['left_ankle'][2]


def test_the_joints_of_the_catalogue_are_of_people_facing_the_camera():
    known = catalog_joints()
    assert len(known) == 23
    for key, joints in known.items():
        assert joints.shape == (17, 3), key
        assert joints[INDEX['left_shoulder'], 0] > joints[INDEX['right_shoulder'], 0], key
        assert joints[INDEX['nose'], 2] > joints[INDEX['left_hip'], 2] > 0, key


def test_people_are_numbered_and_their_joints_turn_and_move_with_them():
    layout = Layout(np.random.default_rng(0), (-5, -5, 5, 5))
    mesh, joints = post(0, 0)
    joints[0] = (0, -1, 1)  # a nose 1 m ahead, for the front is -y
    layout.put(person(mesh, joints), 1, 2, 0, 0)
    layout.put(person(mesh, joints), 1, 2, 0, math.pi / 2)  # counter-clockwise: looks along +x
    assert [part.person for part in layout.parts] == [0, 1]
    np.testing.assert_allclose(layout.people[0][0], [1, 1, 1], atol=1e-6)
    np.testing.assert_allclose(layout.people[1][0], [2, 2, 1], atol=1e-6)


def test_a_person_who_faces_the_camera_has_the_left_hand_on_the_right():
    item = stand_in(np.random.default_rng(1))
    layout = Layout(np.random.default_rng(0), (-5, -5, 5, 5))
    layout.put(item, 0, 3, 0, 0)
    scene = scene_of(*layout.parts, BACK)
    (front,) = figures(scene, view_at((0, 0, 1)), layout.people)
    left, right = INDEX['left_shoulder'], INDEX['right_shoulder']
    assert front.joints[left, 0] > 20 > front.joints[right, 0]
    (back,) = figures(scene, view_at((0, 6, 1), yaw_deg=180), layout.people)
    assert back.joints[left, 0] < 20 < back.joints[right, 0]


def test_a_joint_on_the_optical_axis_is_at_the_image_centre():
    mesh, joints = post(0, 4)
    (figure,) = figures(scene_of((mesh, PERSON, 0), BACK), view_at((0, 0, 1)), [joints])
    middle = 8  # 1 m high
    np.testing.assert_allclose(figure.joints[middle], [20, 15, 2], atol=1e-4)
    np.testing.assert_allclose(figure.joints_m[middle], [0, 0, 4], atol=1e-5)
    # fx = 20.5 / tan 30; the next joint is 0.1 m higher.
    assert figure.joints[middle + 1, 1] == pytest.approx(15 - 20.5 / math.tan(math.pi / 6) / 40)


def test_a_joint_on_the_far_side_of_its_own_body_is_hidden():
    joints = np.array([(0, 3.8 + 0.04 * number, 1) for number in range(17)], np.float32)
    body = box((0.4, 0.7, 2.0), GRAY, (0, 4.15, 0))  # its skin begins 3.8 m away
    (figure,) = figures(scene_of((body, PERSON, 0), BACK), view_at((0, 0, 1)), [joints])
    assert figure.joints[:, 2].tolist() == [2] * 4 + [1] * 13  # 0, 4, 8 and 12 cm deep


def test_an_object_close_in_front_of_a_joint_hides_it():
    mesh, joints = post(0, 4)  # the skin is 3.9 m away
    chair = box((1.0, 0.02, 3.0), GRAY, (0, 3.88, 0)), FURNITURE
    (figure,) = figures(scene_of((mesh, PERSON, 0), chair, BACK), view_at((0, 0, 1)), [joints])
    assert set(figure.joints[:, 2]) == {1}


def test_a_wall_hides_what_is_behind_it_and_the_rest_stays_visible():
    mesh, joints = post(0, 4)
    board = box((3, 0.1, 1.0), GRAY, (0, 2, 0))  # seen from 1 m: hides everything below 1 m
    scene = scene_of((mesh, PERSON, 0), (board, FURNITURE), BACK)
    (figure,) = figures(scene, view_at((0, 0, 1)), [joints])
    assert figure.joints[:8, 2].tolist() == [1] * 8
    assert figure.joints[9:, 2].tolist() == [2] * 8


def test_one_person_hides_another_but_not_itself():
    (near, near_joints), (far, far_joints) = post(0, 2), post(0, 4)
    scene = scene_of((near, PERSON, 0), (far, PERSON, 1), BACK)
    first, second = figures(scene, view_at((0, 0, 1)), [near_joints, far_joints])
    assert first.joints_m[0, 2] == pytest.approx(2)  # the nearest comes first
    assert set(first.joints[:, 2]) == {2}
    assert set(second.joints[:, 2]) == {1}


def test_joints_outside_the_image_are_zeros_and_people_outside_are_left_out():
    mesh, joints = post(0, 1)
    scene = scene_of((mesh, PERSON, 0), BACK)
    (figure,) = figures(scene, view_at((0, 0, 1)), [joints])
    # 15.5 px of half height at fx = 35.5 px: what is within 0.44 m of the axis, 0.6 .. 1.4 m.
    assert np.flatnonzero(figure.joints[:, 2]).tolist() == list(range(4, 13))
    assert (figure.joints[:4] == 0).all()
    assert figures(scene, view_at((0, 0, 1), yaw_deg=180), [joints]) == []


def test_alpha_of_a_pixel_is_the_fraction_of_its_four_rays():
    # Edges of both boards run through pixel (20, 15): rays pass at -1/4 and +1/4 of a pixel.
    pixel_m = 4 / view_at((0, 0, 1)).camera.fx
    left = box((2, 0.01, 4), GRAY, (-1, 4.005, -1))
    above = box((4, 0.01, 2), GRAY, (0, 4.105, 1))
    scene = scene_of((left, PERSON, 0), (above, FURNITURE), BACK)
    seen = radiance(scene, view_at((0, 0, 1)), np.random.default_rng(0))
    assert pixel_m == pytest.approx(0.1127, abs=1e-4)
    assert seen.matte[15, [5, 20, 35]].tolist() == [1, 0.5, 0]
    assert seen.foreground[15, [5, 20, 35]].tolist() == [1, 0.75, 0.5]
    assert seen.foreground[25, 35] == 0  # the wall behind is no thing


def test_written_people_and_mattes_agree_with_the_labels(tmp_path: Path):
    recipe = Recipe(4, 2, 7, 64, 48, 'none', False)
    list(write_dataset(recipe, tmp_path, tmp_path, 1))
    marked = 0
    for key in (frame_key(s, v) for s in range(4) for v in range(2)):
        matte, foreground, labels = (
            cv2.imread(str(tmp_path / f'{key}.{name}.png'), cv2.IMREAD_UNCHANGED)
            for name in ('matte', 'foreground', 'semantic')
        )
        assert matte.dtype == np.uint8
        assert (matte <= foreground).all()
        # The labels are those of the pixel centres: only a thin gap may lie right there.
        assert (labels[matte == 255] != PERSON).sum() <= 3
        assert (labels[matte == 0] == PERSON).sum() <= 3
        for figure in json.loads((tmp_path / f'{key}.people.json').read_text()):
            assert np.shape(figure['joints']) == np.shape(figure['joints_m']) == (17, 3)
            marked += sum(flag == 2 for *_, flag in figure['joints'])
    assert marked > 17


def test_a_limb_reaches_from_one_point_to_another():
    corners = limb((0, 0, 1), (3, 0, 1), 0.1, GRAY).points.reshape(-1, 3)
    np.testing.assert_allclose(corners.min(0), [0, -0.1, 0.9], atol=1e-2)
    np.testing.assert_allclose(corners.max(0), [3, 0.1, 1.1], atol=1e-2)


@pytest.fixture(scope='module')
def bank(tmp_path_factory):
    """Write a bank of 20 tetrahedra; the first joint's x, in cm, is the number of each."""
    points = np.array([(-0.2, 0, 0), (0.2, 0, 0), (0, 0.2, 0), (0, 0, 1.5)], np.float16)
    joints = np.zeros((20, 17, 3), np.float32)
    joints[:, 0, 0] = np.arange(20) / 100
    file = tmp_path_factory.mktemp('bank') / 'bodies.npz'
    np.savez(
        file,
        points=np.tile(points, (20, 1, 1)),
        normals=np.full((20, 4, 3), 70, np.int8),
        part=np.tile(np.arange(4, dtype=np.uint8), (20, 1)),
        joints=joints,
        sits=np.arange(20) % 2 == 1,
        faces=np.array([(0, 1, 3), (1, 2, 3), (2, 0, 3), (0, 2, 1)], np.int32),
        uv=np.zeros((4, 3, 2), np.float16),
    )
    return file


def number_of(item):
    return round(float(item.joints_m[0, 0]) * 100)


def test_held_out_sets_use_the_last_tenth_of_a_bank_and_training_the_rest(bank):
    rng = np.random.default_rng(0)
    training, reserved = (Bodies(Solids(), bank, held) for held in (False, True))
    assert {number_of(training.body(rng)) for _ in range(200)} == set(range(18))
    assert {number_of(reserved.body(rng)) for _ in range(40)} == {18, 19}


def test_half_of_the_people_come_from_the_bank_and_only_people_do(bank):
    rng, library = np.random.default_rng(0), Bodies(Solids(), bank, False)
    people = [library.pick(rng, 'person') for _ in range(200)]
    baked = [item for item in people if len(item.mesh.points) == 4]
    assert 70 < len(baked) < 130
    assert len(library.pick(rng, 'furniture').mesh.points) > 4
    assert all(item.sits == (number_of(item) % 2 == 1) for item in baked)
    assert len({item.mesh.materials[TOP].color for item in baked}) > 20  # everybody dresses anew


def test_a_recipe_names_its_bank_by_content_and_the_credits_name_its_maker(bank, tmp_path):
    words = ['--out', tmp_path, '--bodies', bank, '--scenes', 1, '--views', 1, '--workers', 1]
    assert synthesize.main([str(word) for word in words]) == 0
    recipe = (tmp_path / 'recipe.json').read_text()
    assert json.loads(recipe)['arguments']['bodies'] == digest(bank)
    assert str(bank) not in recipe
    assert 'Anny' in (tmp_path / 'ATTRIBUTION.md').read_text()


def test_the_error_for_a_wrong_bank_has_the_command_to_make_one(tmp_path):
    np.savez(tmp_path / 'other.npz', points=np.zeros(3))
    with pytest.raises(ValueError, match=r'lacks normals, .* bake-bodies command'):
        Bodies(Solids(), tmp_path / 'other.npz', False)


def test_clothes_lie_outside_the_body_and_hair_on_top():
    # A chin, the back of the head, the crown, an eye, a chest and a hand.
    regions = np.array(['head', 'head', 'head', 'eyes', 'torso', 'hand'])
    rest = np.array(
        [(0, 0, 1.5), (0, 0.1, 1.7), (0, 0, 1.8), (0, -0.1, 1.7), (0, 0, 1), (1, 0, 1)]
    )
    part = random_clothes(np.random.default_rng(0), regions, rest)
    assert part.tolist() == [SKIN, HAIR, HAIR, EYES, TOP, SKIN]
    corners = np.array([(0, 0, 0), (1, 0, 0), (0, 1, 0)], np.float64)
    faces = np.array([(0, 1, 2)])
    shirt = pushed_out(corners, faces, np.full(3, TOP))
    np.testing.assert_allclose(shirt - corners, np.tile([0, 0, 0.014], (3, 1)))
    np.testing.assert_array_equal(pushed_out(corners, faces, np.full(3, SKIN)), corners)


def test_the_thighs_of_a_sitting_body_point_to_the_front():
    turns = random_turns(np.random.default_rng(0), 'sit')
    thigh = turns['upperleg01.L'] @ (0, 0, -1)
    assert thigh[1] < -0.9  # the front is -y
    shin = turns['upperleg01.L'] @ turns['lowerleg01.L'] @ (0, 0, -1)
    assert shin[2] < -0.7
