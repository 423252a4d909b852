"""Pose: people out of heat maps, and figures that a person can check."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from sd_perception_ros.metrics.keypoints import (
    keypoint_matches,
    keypoint_similarity,
    KeypointMatch,
)
from sd_perception_ros.skeleton import INDEX, MIRRORED, OUTSIDE, SIGMAS
from sd_perception_ros.tasks import make_task
from sd_perception_ros.tasks.peaks import peak_at
from sd_perception_ros.types import Grid, Person, Poses

HEIGHT, WIDTH = 192, 256
LIMBS = [
    *[(0, 0), (2, -2), (-2, -2), (4, -1), (-4, -1)],
    *[(10, 12), (-10, 12), (14, 26), (-14, 26), (15, 38), (-15, 38)],
    *[(6, 40), (-6, 40), (7, 60), (-7, 60), (7, 80), (-7, 80)],
]


def person_at(u: float, v: float, flag: int = 2) -> Tensor:
    """(17, 3): a person of 82 px whose nose is at (u, v)."""
    joints = torch.tensor(LIMBS).float() + torch.tensor([u, v])
    return torch.cat([joints, torch.full((17, 1), float(flag))], 1)


def sample_of(*people: Tensor) -> dict[str, Tensor]:
    joints = torch.zeros(1, 8, 17, 3)
    for index, person in enumerate(people):
        joints[0, index] = person
    return {'matte': torch.zeros(1, 1, HEIGHT, WIDTH), 'joints': joints}


def decoded(sample: dict[str, Tensor]) -> Poses:
    pose = make_task('human_pose')
    prediction = pose.decode(pose.target(sample)[0][0])
    assert isinstance(prediction, Poses)
    return prediction


def test_joints_are_found_between_the_pixels() -> None:
    truth = person_at(100.3, 40.7)
    [person] = decoded(sample_of(truth)).people
    np.testing.assert_allclose(person.joints[:, :2], truth[:, :2], atol=0.05)
    assert person.visible.all()
    assert person.score > 0.9


def test_two_people_side_by_side_keep_their_own_joints() -> None:
    left, right = person_at(80, 40), person_at(118, 44)
    people = sorted(decoded(sample_of(left, right)).people, key=lambda p: p.joints[0, 0])
    assert len(people) == 2
    for person, truth in zip(people, (left, right), strict=True):
        np.testing.assert_allclose(person.joints[:, :2], truth[:, :2], atol=0.5)


def test_a_hidden_joint_is_placed_by_its_offset_and_is_not_visible() -> None:
    truth = person_at(100, 40)
    ankle = INDEX['left_ankle']
    truth[ankle, 2] = 1
    [person] = decoded(sample_of(truth)).people
    np.testing.assert_allclose(person.joints[ankle, :2], truth[ankle, :2], atol=0.5)
    assert not person.visible[ankle]
    assert person.visible.sum() == 16
    assert person.joints[ankle, 2] < 0.3


def test_a_joint_outside_the_image_is_not_detected() -> None:
    truth = person_at(100, 40)
    truth[INDEX['right_ankle']] = 0
    [person] = decoded(sample_of(truth)).people
    assert np.isnan(person.joints[INDEX['right_ankle'], :2]).all()
    assert person.joints[INDEX['right_ankle'], 2] == 0


def test_offsets_point_to_known_joints_outside_the_image() -> None:
    low, ankle = person_at(100, 140), INDEX['left_ankle']
    low[low[:, 1] > HEIGHT - 0.5, 2] = OUTSIDE
    target, _ = make_task('human_pose').target(sample_of(low))
    offsets = target[0, 18:].view(17, 2, HEIGHT // 2, WIDTH // 2)
    # The centre is the mean of the joints in the picture: 13 of them, at y = 157.4.
    row, column = divmod(int(target[0, 17].argmax()), WIDTH // 2)
    assert (2 * column, 2 * row) == (100, 156)
    x, y = (offsets[ankle, :, row, column] * 16 * 2).tolist()
    assert (column * 2 + x + 0.5, row * 2 + y + 0.5) == pytest.approx((107, 220))
    assert target[0, ankle].max() == 0
    [person] = decoded(sample_of(low)).people
    assert np.isnan(person.joints[ankle, :2]).all()
    # Nor where another's ankle is hot at the edge, nearer than a fifth of the person.
    crowded = low.clone()
    crowded[ankle] = torch.tensor([107, HEIGHT + 8, OUTSIDE])
    target = make_task('human_pose').target(sample_of(crowded))[0][0]
    target[ankle, -1, 53] = 1
    [person] = make_task('human_pose').decode(target).people
    assert np.isnan(person.joints[ankle, :2]).all()
    # A sink of numbers is not asked for: a quarter of the picture is as far as it goes.
    low[ankle, :2] = torch.tensor([-5000, 5000])
    far = make_task('human_pose').target(sample_of(low))[0][0, 18:].view(17, 2, 96, 128)
    x, y = (far[ankle, :, row, column] * 16).tolist()
    assert (column + x, row + y) == pytest.approx((-0.25 * 128, 1.25 * 96))


def test_a_fully_hidden_person_is_ignored() -> None:
    hidden = person_at(100, 40, flag=1)
    assert decoded(sample_of(hidden)).people == ()
    assert len(keypoint_matches([], hidden[None].numpy())) == 0


def test_no_people_give_no_people() -> None:
    assert decoded(sample_of()).people == ()


def test_high_heat_everywhere_gives_a_bounded_number_of_people() -> None:
    pose = make_task('human_pose')
    raw = torch.rand(pose.channels, 96, 128, generator=torch.Generator().manual_seed(0))
    prediction = pose.decode(raw)
    assert isinstance(prediction, Poses)
    assert 0 < len(prediction.people) <= 30


def test_a_grid_scales_joints_to_a_larger_image() -> None:
    pose = make_task('human_pose')
    target, _ = pose.target(sample_of(person_at(100, 40)))
    prediction = pose.decode(target[0], Grid(480, 640, 5.0, 5.0))
    assert isinstance(prediction, Poses)
    # The middle of pixel 100 lies at 100.5 of 256 picture widths, and so at 251.25 of 640.
    np.testing.assert_allclose(prediction.people[0].joints[0, :2], [250.75, 100.75], atol=0.1)


def test_people_in_the_padding_are_left_out() -> None:
    pose = make_task('human_pose')
    target, _ = pose.target(sample_of(person_at(200, 40)))
    prediction = pose.decode(target[0], Grid(192, 150, 2.0, 2.0))
    assert isinstance(prediction, Poses)
    assert prediction.people == ()


@pytest.mark.parametrize('shift', [-0.4, 0.0, 0.25])
def test_the_top_of_a_gaussian_is_exact(shift: float) -> None:
    x = np.arange(11, dtype=np.float32)
    line = np.exp(-((x - 5 - shift) ** 2) / (2 * 1.5**2))
    heat = np.outer(line, line).astype(np.float32)
    found_x, found_y, score = peak_at(heat, 5, 5)
    np.testing.assert_allclose([found_x, found_y], 5 + shift, atol=1e-3)
    assert score > 0.9


def found(joints: Tensor, dx: float = 0.0) -> Person:
    moved = joints.numpy().copy()
    moved[:, 0] += dx
    moved[:, 2] = 1
    return Person(moved, np.ones(17, bool), 0.9)


def test_a_shift_of_one_sigma_has_the_similarity_of_one_sigma() -> None:
    truth = person_at(100, 40)
    area = 0.53 * 30 * 82
    shifted = found(truth)
    # COCO: exp(-d^2 / (2 s^2 k^2)) with k = 2 sigma; so d = s k gives exp(-1 / 2).
    shifted.joints[:, 0] += 2 * SIGMAS * np.sqrt(area)
    assert keypoint_similarity(shifted, truth.numpy()) == pytest.approx(np.exp(-0.5), abs=1e-4)


def test_joints_within_a_fifth_of_the_torso_are_right() -> None:
    truth = person_at(100, 40)  # the torso's diagonal is hypot(16, 28) = 32.2 px, a fifth 6.4
    for shift, right in ((6.0, 17), (7.0, 0)):
        rows = keypoint_matches([found(truth, shift)], truth[None].numpy())
        assert rows[0, KeypointMatch.RIGHT] == right


def test_a_false_positive_lowers_precision_and_a_missed_person_lowers_recall() -> None:
    first, second = person_at(60, 40), person_at(180, 40)
    nobody = person_at(120, 90)
    rows = keypoint_matches([found(first), found(nobody)], torch.stack([first, second]).numpy())
    figures = KeypointMatch.summarize(rows)
    assert figures['recall'] == 0.5
    assert figures['precision'] == 0.5
    assert figures['pck_0.2'] == 0.5


def test_mirroring_swaps_only_left_and_right() -> None:
    assert MIRRORED[INDEX['left_wrist']] == INDEX['right_wrist']
    assert MIRRORED[INDEX['nose']] == INDEX['nose']
    assert [MIRRORED[i] for i in MIRRORED] == list(range(17))


def test_a_heat_of_a_tenth_without_people_has_a_loss_of_one_and_a_half() -> None:
    pose = make_task('human_pose')
    target, valid = pose.target(sample_of())
    raw = torch.zeros_like(target)
    raw[:, :18] = 0.1
    assert pose.loss(raw, target, valid).item() == pytest.approx(1.5)
    # Where nobody knows about people, nothing costs.
    valid[..., :40, :] = False
    raw[..., :40, :] = 7
    assert pose.loss(raw, target, valid).item() == pytest.approx(1.5)


def test_offsets_that_are_a_cell_too_long_have_a_loss_of_three_sixteenths() -> None:
    pose = make_task('human_pose')
    target, valid = pose.target(sample_of(person_at(100, 40), person_at(180, 40)))
    raw = target.nan_to_num(0.0)
    raw[:, 18:] += 1 / 16
    assert pose.loss(raw, target, valid).item() == pytest.approx(3 / 16)
