"""Top-down poses: boxes, crops, and engines that look at each person."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from models import save_sdpose, save_tiny
import numpy as np
import pytest
import torch

from sd_perception_ros.engine import Engine
from sd_perception_ros.evaluation.evaluate import true_boxes
from sd_perception_ros.people.boxes import Box, boxes_of_mask, boxes_of_poses, highest_scores
from sd_perception_ros.people.crops import crop, Region, region_of, to_crop, to_image
from sd_perception_ros.people.options import TopDownOptions
from sd_perception_ros.people.top_down import TopDown
from sd_perception_ros.tasks import make_task
from sd_perception_ros.types import Grid, Person, Poses


def person(*points: tuple[float, float], score: float = 1.0) -> Person:
    """Make a person of these joints; the others are not found."""
    joints = np.full((17, 3), (np.nan, np.nan, 0), np.float32)
    for index, (x, y) in enumerate(points):
        joints[index] = x, y, 1
    return Person(joints, joints[:, 2] > 0, score)


def test_a_box_of_joints_has_a_margin_of_an_eighth_of_their_extent() -> None:
    poses = Poses((person((100, 40), (140, 120), score=0.8), person()), 480, 640)
    [box] = boxes_of_poses(poses)
    # 40 x 80 pixels: a margin of 10.
    assert box == Box(90, 30, 60, 100, pytest.approx(0.8), 0)


def test_connected_pixels_are_one_person_and_specks_are_noise() -> None:
    mask = np.zeros((100, 200), bool)
    mask[20:80, 30:50] = True
    mask[10:90, 100:140] = True
    mask[0:2, 0:2] = True
    assert [tuple(box[:4]) for box in boxes_of_mask(mask)] == [
        (100, 10, 40, 80),
        (30, 20, 20, 60),
    ]


def test_people_who_touch_are_split_between_their_centres() -> None:
    mask = np.zeros((100, 200), bool)
    mask[20:80, 40:120] = True
    poses = Poses((person((60, 50), score=0.7), person((100, 50), score=0.9)), 100, 200)
    boxes = sorted(boxes_of_mask(mask, poses))
    # The centres lie at x = 60 and 100: the border between them is 80.
    assert [box[:4] for box in boxes] == [(40, 20, 41, 60), (81, 20, 39, 60)]
    assert [(box.person, round(box.score, 3)) for box in boxes] == [(0, 0.7), (1, 0.9)]


def test_boxes_are_sorted_by_score_and_then_by_size() -> None:
    small, large, unsure = Box(0, 0, 5, 5), Box(0, 0, 9, 9), Box(0, 0, 50, 50, 0.4)
    assert highest_scores([unsure, small, large], 2) == [large, small]


@pytest.mark.parametrize(
    ('box', 'region'),
    [
        # 60 x 80 is 3:4 already: both sides grow by 1.25.
        (Box(100, 100, 60, 80), Region(92.5, 90, 75, 100)),
        # 120 x 80: 150 x 100 grows to 150 x 200.
        (Box(0, 0, 120, 80), Region(-15, -60, 150, 200)),
        # 30 x 80: 37.5 x 100 grows to 75 x 100.
        (Box(100, 0, 30, 80), Region(77.5, -10, 75, 100)),
    ],
)
def test_a_box_grows_by_a_quarter_and_to_three_by_four(box: Box, region: Region) -> None:
    np.testing.assert_allclose(region_of(box), region)


def test_a_crop_at_its_original_size_equals_the_image_and_is_black_outside() -> None:
    rgb = np.random.default_rng(0).integers(1, 255, (40, 50, 3), np.uint8)
    # 23 steps between 24 pixels: the crop shows the pixels 10..33 and 5..36 as they are.
    whole = crop(rgb, Region(10, 5, 23, 31), 24, 32)
    np.testing.assert_array_equal(whole, rgb[5:37, 10:34])
    beyond = crop(rgb, Region(-10, -5, 23, 31), 24, 32)
    assert not beyond[:, :10].any()
    np.testing.assert_array_equal(beyond[5:, 10:], rgb[:27, :14])


def test_joints_go_to_a_crop_and_back() -> None:
    region = Region(10, 20, 75, 100)
    joints = np.array([[10, 20, 0.5], [85, 120, 1], [47.5, 70, 1]], np.float32)
    in_crop = to_crop(joints, region, 96, 128)
    np.testing.assert_allclose(in_crop[:, :2], [[0, 0], [95, 127], [47.5, 63.5]], atol=1e-4)
    np.testing.assert_allclose(to_image(in_crop, region, 96, 128), joints, atol=1e-4)


def test_joints_of_a_crop_are_converted_to_pixels_of_the_image() -> None:
    """The network is an eye for white dots: its heat maps are the crop's brightness."""

    def dots(crops: Sequence[np.ndarray]) -> list[tuple[torch.Tensor, Grid]]:
        maps = [torch.from_numpy(c[..., 0].astype(np.float32)) / 255 for c in crops]
        return [(m[None].repeat(17, 1, 1), Grid(128, 96, 1, 1)) for m in maps]

    rgb = np.zeros((480, 640, 3), np.uint8)
    rgb[200:203, 300:303] = rgb[100:103, 500:503] = 255
    task = make_task('human_pose', {}, reads_crops=True)
    stage = TopDown(TopDownOptions(boxes='detections'), task, dots, {}, 128)
    boxes = [Box(270, 160, 60, 80, 0.5), Box(470, 60, 60, 80, 0.9)]
    [poses] = stage.poses([rgb], [{}], [boxes])
    assert (poses.height, poses.width) == (480, 640)
    for found, (x, y) in zip(poses.people, [(501, 101), (301, 201)], strict=True):
        np.testing.assert_allclose(found.joints[:, :2], np.tile([x, y], (17, 1)), atol=0.5)
    assert poses.people[0].score == pytest.approx(0.9, abs=0.05)
    flipped = TopDown(
        TopDownOptions(boxes='detections', flip_test=True), task, dots, {}, 128
    ).poses([rgb], [{}], [boxes])[0]
    for found, other in zip(poses.people, flipped.people, strict=True):
        np.testing.assert_allclose(found.joints, other.joints, atol=0.01)


def test_only_people_with_the_highest_scores_get_a_crop() -> None:
    counts = []

    def count(crops: Sequence[np.ndarray]) -> list[tuple[torch.Tensor, Grid]]:
        counts.append(len(crops))
        return [(torch.zeros(17, 32, 24), Grid(128, 96, 4, 4)) for _ in crops]

    task = make_task('human_pose', {}, reads_crops=True)
    stage = TopDown(TopDownOptions(max_people=2), task, count, {}, 128)
    rgb = np.zeros((48, 64, 3), np.uint8)
    boxes = [Box(0, 0, 9, 12)] * 3
    stage.poses([rgb, rgb], [{}, {}], [boxes, boxes[:1]])
    assert counts == [3]  # two and one, in one batch
    stage.poses([rgb], [{}], [[]])
    assert counts == [3]


@pytest.fixture(scope='module')
def sdpose(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_sdpose(tmp_path_factory.mktemp('sdpose'))


@pytest.fixture(scope='module')
def finder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    heads = {'human_pose': 'light', 'segmentation': 'light'}
    return save_tiny(tmp_path_factory.mktemp('finder'), heads)


def noise(seed: int = 0, height: int = 96, width: int = 128) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)


def same(one: Poses, other: Poses, atol: float = 0.02) -> None:
    assert len(one.people) == len(other.people)
    for a, b in zip(one.people, other.people, strict=True):
        np.testing.assert_allclose(a.joints, b.joints, atol=atol)


def test_people_in_a_batch_equal_those_of_single_images(sdpose: Path) -> None:
    engine = Engine.load(str(sdpose), device='cpu')
    assert engine.needs_boxes
    pictures = [noise(1), noise(2, 60, 90)]
    boxes = [[Box(10, 10, 40, 60), Box(60, 20, 30, 60, 0.9)], [Box(30, 5, 30, 50)]]
    together = engine.predict(pictures, boxes=boxes)
    assert [len(p['human_pose'].people) for p in together] == [2, 1]  # type: ignore[union-attr]
    for rgb, of_picture, both in zip(pictures, boxes, together, strict=True):
        alone: Any = engine.predict([rgb], ['human_pose'], [of_picture])[0]['human_pose']
        same(alone, both['human_pose'])  # type: ignore[arg-type]


def test_missing_boxes_are_an_error(sdpose: Path) -> None:
    engine = Engine.load(str(sdpose), device='cpu')
    with pytest.raises(ValueError, match='expected boxes around the people'):
        engine.predict([noise()])


def test_a_checkpoint_for_crops_takes_its_boxes_from_the_main_one(
    sdpose: Path, finder: Path
) -> None:
    """The main checkpoint finds people, although its own human_pose is not asked for."""
    engine = Engine.load(str(finder), checkpoints={'human_pose': str(sdpose)}, device='cpu')
    assert list(engine.tasks) == ['human_pose', 'segmentation']
    assert engine.tasks['human_pose'].reads_crops
    assert not engine.needs_boxes
    assert 'boxes from human_pose' in engine.summary()
    rgb = noise(3)
    poses: Any = engine.predict([rgb])[0]['human_pose']
    found: Any = Engine.load(str(finder), device='cpu').predict([rgb])[0]['human_pose']
    boxes = [boxes_of_poses(found)]
    expected: Any = Engine.load(str(sdpose), device='cpu').predict([rgb], boxes=boxes)
    same(poses, expected[0]['human_pose'])


def test_boxes_from_a_task_that_no_checkpoint_has_are_refused(sdpose: Path) -> None:
    with pytest.raises(ValueError, match=r'top_down\.boxes: segmentation needs a checkpoint'):
        Engine.load(str(sdpose), device='cpu', top_down=TopDownOptions(boxes='segmentation'))


class Drawn:
    """Reads people out of a picture in which they are drawn as three dots, from 8 pixels on."""

    def __init__(self) -> None:
        self.task = make_task('human_pose')

    def __call__(self, crops: Sequence[np.ndarray]) -> list[tuple[torch.Tensor, Grid]]:
        outputs = []
        for picture in crops:
            rows, columns = np.nonzero(picture[..., 0] > 200)
            joints = torch.zeros(1, 1, 17, 3)
            if len(rows):
                joints[0, 0, 0] = torch.tensor([columns.mean(), rows.min(), 2])
                joints[0, 0, 1] = torch.tensor([columns.mean(), rows.max(), 2])
            sample = {'image': torch.zeros(1, 3, *picture.shape[:2]), 'joints': joints}
            raw = self.task.target(sample)[0][0].nan_to_num()
            outputs.append((raw, Grid(*picture.shape[:2], 2, 2)))
        return outputs


def test_a_second_look_moves_joints_to_where_the_crop_shows_them() -> None:
    rgb = np.zeros((480, 640, 3), np.uint8)
    rgb[200:261, 299:302] = 255
    eye = Drawn()
    # The first look is 6 pixels off, and has a joint that the crop does not show.
    first = person((306, 206), (306, 266), (303, 230), score=0.8)
    stage = TopDown(TopDownOptions(second_look=True), eye.task, eye, {'human_pose': eye.task}, 256)
    assert stage.needs == ('human_pose',)
    [poses] = stage.poses([rgb], [{'human_pose': Poses((first,), 480, 640)}])
    [again] = poses.people
    np.testing.assert_allclose(again.joints[:2, :2], [[300, 200], [300, 260]], atol=1)
    np.testing.assert_allclose(again.joints[2], first.joints[2])
    assert again.score == pytest.approx(0.8)


def test_a_second_look_without_the_same_person_changes_nothing() -> None:
    rgb = np.zeros((480, 640, 3), np.uint8)
    eye = Drawn()
    stage = TopDown(TopDownOptions(second_look=True), eye.task, eye, {'human_pose': eye.task}, 256)
    first = person((306, 206), (306, 266), score=0.8)
    [poses] = stage.poses([rgb], [{'human_pose': Poses((first,), 480, 640)}])
    np.testing.assert_array_equal(poses.people[0].joints, first.joints)


def test_people_beyond_the_limit_keep_their_first_look() -> None:
    rgb = np.zeros((480, 640, 3), np.uint8)
    rgb[200:261, 299:302] = 255
    eye = Drawn()
    options = TopDownOptions(second_look=True, max_people=1)
    stage = TopDown(options, eye.task, eye, {'human_pose': eye.task}, 256)
    sure, other = person((306, 206), (306, 266), score=0.8), person((50, 50), (50, 90), score=0.5)
    [poses] = stage.poses([rgb], [{'human_pose': Poses((sure, other), 480, 640)}])
    assert [round(p.score, 2) for p in poses.people] == [0.8, 0.5]
    np.testing.assert_array_equal(poses.people[1].joints, other.joints)


@pytest.mark.parametrize(
    ('most_cost', 'flip_test', 'count'),
    [
        (4.0, False, 4),  # a crop of 192 x 256 costs what a picture of 256 x 192 does
        (4.0, True, 2),
        (0.99, False, 0),
        (100.0, False, 8),  # max_people
    ],
)
def test_a_second_look_costs_at_most_a_multiple_of_the_image(
    most_cost: float, flip_test: bool, count: int
) -> None:
    counts = []

    def read(crops: Sequence[np.ndarray]) -> list[tuple[torch.Tensor, Grid]]:
        counts.append(len(crops))
        return [(torch.zeros(52, 128, 96), Grid(256, 192, 2, 2)) for _ in crops]

    options = TopDownOptions(second_look=True, second_look_max_cost=most_cost, flip_test=flip_test)
    task = make_task('human_pose')
    stage = TopDown(options, task, read, {'human_pose': task}, 256)
    people = tuple(person((x, 60), (x, 120)) for x in range(10, 250, 24))
    assert len(people) == 10
    rgb = np.zeros((192, 256, 3), np.uint8)
    [poses] = stage.poses([rgb], [{'human_pose': Poses(people, 192, 256)}])
    assert counts == ([count * (2 if flip_test else 1)] if count else [])
    assert len(poses.people) == 10  # the others keep their first look


def test_an_engine_counts_the_pixels_that_the_network_reads(
    finder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its checkpoint shrinks pictures to 64 pixels: a crop has 48 x 64, a picture 64 x 48."""
    costs = {1.0: 1, 2.5: 2, 0.5: 0}
    for most_cost, count in costs.items():
        options = TopDownOptions(second_look=True, second_look_max_cost=most_cost)
        engine = Engine.load(str(finder), device='cpu', top_down=options)
        assert engine._top_down is not None
        assert engine._top_down.most_crops(480, 640) == count
    assert 'no second look at people in images of 640 x 480 px: one costs 1.00' in caplog.text


def test_the_bundled_checkpoint_takes_a_second_look() -> None:
    from sd_perception_ros.ros.replay.sources import DEMO, open_source

    rgb = open_source(str(DEMO)).frame(20).rgb
    once: Any = Engine.load(device='cpu', tasks=['human_pose'])
    twice = Engine.load(
        device='cpu', tasks=['human_pose'], top_down=TopDownOptions(second_look=True)
    )
    assert 'people in crops of' in twice.summary()
    first, second = (e.predict([rgb])[0]['human_pose'] for e in (once, twice))
    assert len(first.people) == len(second.people) > 0  # type: ignore[union-attr]


def test_a_checkpoint_that_needs_boxes_is_evaluated_with_annotated_ones(sdpose: Path) -> None:
    engine = Engine.load(str(sdpose), device='cpu')
    joints = torch.zeros(1, 2, 17, 3)
    joints[0, 0] = torch.tensor([30.0, 40, 2])
    joints[0, 0, 1] = torch.tensor([50.0, 80, 2])
    sample = {'image': torch.zeros(1, 3, 96, 128), 'joints': joints}
    # 20 x 40 pixels and a margin of an eighth of 40.
    assert [tuple(box[:4]) for box in true_boxes(sample)] == [(25, 35, 30, 50)]
    sample['bodies'] = torch.tensor([[[5.0, 6, 7, 8, 50, 0], [0, 0, 99, 99, 900, 1]]])
    assert [tuple(box[:4]) for box in true_boxes(sample)] == [(5, 6, 7, 8)]
    assert engine.needs_boxes
    frames = [noise(4)]
    [prediction] = engine.predict(frames, ['human_pose'], [true_boxes(sample)])
    task = engine.tasks['human_pose']
    assert 'ap' in task.summarize([task.measure(prediction['human_pose'], sample)])
