"""Training on crops of people: the image and joints of a crop, and the steps that use crops."""

from __future__ import annotations

from collections.abc import Iterator
import json
from pathlib import Path
from typing import Any

import cv2
from models import save_sdpose, save_tiny
import numpy as np
import pytest
import torch

from sd_perception_ros.checkpoint import checkpoint
from sd_perception_ros.checkpoint.config_file import FILE, read_config
from sd_perception_ros.checkpoint.finetuning import model_to_finetune
from sd_perception_ros.cli import train as train_command
from sd_perception_ros.data.augment import mirror
from sd_perception_ros.data.opening import open_data
from sd_perception_ros.data.person_crops import (
    people_to_crop,
    person_crop,
    person_region,
    random_region,
)
from sd_perception_ros.engine import Engine
from sd_perception_ros.people.boxes import Box
from sd_perception_ros.people.crops import Region, second_look_size, warp_of
from sd_perception_ros.skeleton import INDEX, OUTSIDE
from sd_perception_ros.tasks import make_task
from sd_perception_ros.training.batches import BatchOptions
from sd_perception_ros.training.finetune import train
from sd_perception_ros.training.options import TrainingConfig, WindowConfig

LEFT, RIGHT = INDEX['left_wrist'], INDEX['right_wrist']


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Use one thread: with such small layers several threads are slower."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def people(*persons: dict[str, tuple[float, float, int]]) -> dict[str, torch.Tensor]:
    """Return a black image of 200 x 100 pixels with a white pixel at each joint."""
    image = torch.full((1, 3, 100, 200), -1.0)
    joints = torch.zeros(1, len(persons), 17, 3)
    for row, person in zip(joints[0], persons, strict=True):
        for name, (u, v, flag) in person.items():
            row[INDEX[name]] = torch.tensor([u, v, flag])
            if flag > 0:
                image[0, :, round(v), round(u)] = 1
    return {'image': image, 'joints': joints}


def brightest(image: torch.Tensor) -> tuple[float, float]:
    """Return x and y of the brightness centroid, pixels."""
    light = (image[0, 0] + 1).numpy()
    y, x = np.mgrid[: light.shape[0], : light.shape[1]]
    return float((x * light).sum() / light.sum()), float((y * light).sum() / light.sum())


def test_the_region_is_that_of_a_second_look_around_the_annotated_joints() -> None:
    """Joints of 40 x 80 px have a box of 60 x 100 px, and a region of 93.75 x 125 px."""
    sample = people({'nose': (80, 10, 2), 'left_ankle': (120, 90, 1), 'right_ankle': (0, 0, 0)})
    region = person_region(sample['joints'][0, 0].numpy())
    np.testing.assert_allclose(region, (100 - 93.75 / 2, 50 - 62.5, 93.75, 125))


def test_people_without_extent_get_no_crop() -> None:
    sample = people(
        {'nose': (10, 10, 2)},
        {'nose': (10, 10, 2), 'left_eye': (10, 25, 2)},
        {'nose': (10, 10, 2), 'left_eye': (10, 26, 2)},
        {'nose': (10, 10, 2), 'left_eye': (10, 90, OUTSIDE)},
    )
    assert people_to_crop(sample) == [2]


@pytest.mark.parametrize(
    ('angle', 'place'),
    [
        # 24 pixels right of the centre; the crop has 97 x 129 pixels, twice the region.
        (0, (48 + 48, 64)),
        (90, (48, 64 + 48)),  # clockwise: right becomes below
        (-90, (48, 64 - 48)),
        (180, (48 - 48, 64)),
    ],
)
def test_a_joint_and_its_pixel_have_the_same_position_in_the_crop(
    angle: float, place: tuple[float, float]
) -> None:
    sample = people({'nose': (124, 50, 2), 'left_eye': (124, 50, 2), 'right_eye': (0, 0, 0)})
    region = Region(100 - 24, 50 - 32, 48, 64)
    cut = person_crop(sample, 0, region, (129, 97), angle)
    assert cut['image'].shape == (1, 3, 129, 97)
    np.testing.assert_allclose(cut['joints'][0, 0, 0], (*place, 2), atol=1e-4)
    if 0 < place[0] < 96:
        np.testing.assert_allclose(brightest(cut['image']), place, atol=0.05)
    assert cut['joints'][0, 0, INDEX['right_eye']].tolist() == [0, 0, 0]


def test_the_person_of_the_crop_is_first_and_joints_outside_of_it_are_flagged() -> None:
    sample = people({'nose': (20, 20, 2)}, {'nose': (100, 50, 2), 'left_eye': (104, 50, 1)})
    cut = person_crop(sample, 1, Region(88, 34, 24, 32), (33, 25))
    assert cut['joints'][0, 0, 0].tolist() == [12, 16, 2]
    assert cut['joints'][0, 0, 1].tolist() == [16, 16, 1]
    assert cut['joints'][0, 1, 0].tolist() == [20 - 88, 20 - 34, OUTSIDE]


def test_the_matte_is_cropped_too_and_zero_outside_of_the_image() -> None:
    sample = people({'nose': (100, 50, 2)})
    matte = torch.zeros(1, 1, 100, 200)
    matte[..., 100:] = torch.nan
    cut = person_crop(sample | {'matte': matte}, 0, Region(90, 80, 24, 32), (33, 25))
    assert cut['matte'][0, 0, 0].isnan().tolist() == [False] * 10 + [True] * 15
    assert (cut['matte'][0, 0, 20:] == 0).all()  # below the last of 100 rows of the image
    assert (cut['image'][0, :, 20:] == -1).all()


def test_in_a_mirrored_crop_left_and_right_wrist_are_exchanged() -> None:
    sample = people({'left_wrist': (90, 50, 2), 'right_wrist': (110, 70, 2)})
    region = person_region(mirror(sample)['joints'][0, 0].numpy())
    cut = person_crop(mirror(sample), 0, region, (129, 97))
    straight = person_crop(sample, 0, person_region(sample['joints'][0, 0].numpy()), (129, 97))
    np.testing.assert_allclose(cut['image'], straight['image'].flip(-1), atol=0.1)
    left, right = cut['joints'][0, 0, LEFT], cut['joints'][0, 0, RIGHT]
    np.testing.assert_allclose(left[0], 96 - straight['joints'][0, 0, RIGHT, 0], atol=1e-3)
    np.testing.assert_allclose(right[0], 96 - straight['joints'][0, 0, LEFT, 0], atol=1e-3)


def test_random_regions_stay_within_their_limits() -> None:
    rng = np.random.default_rng(0)
    sample = people({'nose': (80, 10, 2), 'left_ankle': (120, 90, 1)})
    joints = sample['joints'][0, 0].numpy()
    own = person_region(joints)
    drawn = [random_region(joints, rng, 80) for _ in range(500)]
    scales = np.array([region.height / own.height for region, _ in drawn])
    angles = np.array([angle for _, angle in drawn])
    middles = np.array([(r.left + r.width / 2, r.top + r.height / 2) for r, _ in drawn])
    shifts = (middles - (100, 50)) / np.array([(r.width, r.height) for r, _ in drawn])
    assert (pytest.approx(scales.min(), abs=0.03), pytest.approx(scales.max(), abs=0.03)) == (
        0.5,
        1.5,
    )
    assert np.abs(angles).max() == pytest.approx(80, abs=3)
    assert (angles != 0).mean() == pytest.approx(0.6, abs=0.07)
    assert np.abs(shifts).max() == pytest.approx(0.16, abs=0.01)
    assert (np.abs(shifts).max(1) > 1e-6).mean() == pytest.approx(0.3, abs=0.07)
    assert all(region.width / region.height == pytest.approx(0.75) for region, _ in drawn)


def test_three_of_ten_crops_show_one_half_of_the_body() -> None:
    rng = np.random.default_rng(0)
    joints = np.zeros((17, 3), np.float32)
    joints[:] = [[50, 10 + 10 * number, 2] for number in range(17)]
    whole = person_region(joints).height
    # Joints 0..10 span 100 of 160 px; the other six are too few for a half.
    ratios = np.array([random_region(joints, rng, 0)[0].height / whole for _ in range(400)])
    assert (ratios < 0.5).mean() == pytest.approx(0.3 * 0.3, abs=0.06)


@pytest.mark.parametrize(
    ('share', 'steps'), [(0.0, []), (0.25, [3, 7]), (0.5, [1, 3, 5, 7]), (1.0, list(range(8)))]
)
def test_steps_of_crops_are_spread_evenly(share: float, steps: list[int]) -> None:
    options = BatchOptions(TrainingConfig(steps=8), WindowConfig(crops=share), [(96, 128)])
    assert [step for step in range(8) if options.is_of_crops(step)] == steps
    assert options.crop_size(0) == (128, 96)
    for step, following in zip(steps, [*steps[1:], 8], strict=False):
        assert options.following(step) == following


def test_a_crop_of_a_second_look_is_as_high_as_the_longer_side_of_the_image() -> None:
    assert second_look_size(256) == (256, 192)
    assert second_look_size(250) == (256, 192)
    assert second_look_size(1) == (32, 24)


def test_joints_without_annotation_are_ignored_and_joints_outside_have_an_empty_map() -> None:
    task: Any = make_task('human_pose', {'skeleton': 'coco_wholebody'}, reads_crops=True)
    sample = people({'nose': (12, 16, 2), 'left_eye': (-30, 16, OUTSIDE)})
    crop = {'image': sample['image'][..., :33, :25], 'joints': sample['joints']}
    target, valid = task.target(crop)
    assert target.shape == valid.shape == (1, 133, 9, 7)
    assert valid[0].flatten(1).all(1).nonzero()[:, 0].tolist() == [0, INDEX['left_eye']]
    assert target[0, 0].max() == 1
    assert target[0, 1:].max() == 0
    raw = target.clone()
    raw[0, 2:] = 9  # anything
    assert float(task.loss(raw, target, valid)) == 0


def drawn_people(folder: Path, count: int = 4) -> Path:
    """Write images of one person, a white bar from nose to ankle, in COCO's format."""
    (folder / 'annotations').mkdir(parents=True)
    (folder / 'train2017').mkdir()
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for number in range(count):
        rgb = rng.integers(0, 60, (96, 128, 3), np.uint8)
        u, v = int(rng.integers(30, 90)), int(rng.integers(10, 30))
        cv2.rectangle(rgb, (u - 2, v), (u + 2, v + 50), (255, 255, 255), -1)
        name = f'{number}.png'
        cv2.imwrite(str(folder / 'train2017' / name), rgb)
        joints = np.zeros((17, 3), int)
        joints[0] = u, v, 2
        joints[16] = u, v + 50, 2
        images.append({'id': number, 'file_name': name, 'height': 96, 'width': 128})
        about = {'image_id': number, 'id': number, 'category_id': 1, 'iscrowd': 0, 'area': 300}
        box = [u - 2, v, 5, 51]
        annotations.append(about | {'keypoints': joints.flatten().tolist(), 'bbox': box})
    content = {'images': images, 'annotations': annotations, 'categories': [{'id': 1}]}
    (folder / 'annotations/person_keypoints_train2017.json').write_text(json.dumps(content))
    return folder


@pytest.fixture(scope='module')
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return drawn_people(tmp_path_factory.mktemp('coco'))


def losses_of(
    base: Path,
    coco: Path,
    folder: Path,
    sizes: list[tuple[int, int]],
    **more: Any,
) -> list[dict[str, float]]:
    torch.manual_seed(0)
    model = model_to_finetune(base, ['human_pose'], 'light')
    windows = WindowConfig(fit='cover', workers=0, **more.pop('windows', {}))
    config = TrainingConfig(batch_size=4, learning_rate=2e-3, warmup_steps=2, **more)
    run = train(model, open_data([str(coco)]), None, config, sizes, folder, windows=windows)
    return [losses for _, losses in run]


@pytest.mark.parametrize('joints', [17, 133])
def test_a_checkpoint_that_reads_crops_learns_from_crops(
    coco: Path, tmp_path: Path, joints: int
) -> None:
    base = save_sdpose(tmp_path / 'base', joints)
    losses = losses_of(base, coco, tmp_path / 'out', [(64, 48)], steps=40)
    values = [step['human_pose'] for step in losses]
    assert np.mean(values[-10:]) < 0.7 * np.mean(values[:5])


def test_a_checkpoint_for_whole_images_uses_crops_in_a_fraction_of_the_steps(
    coco: Path, tmp_path: Path
) -> None:
    base = save_tiny(tmp_path / 'base', {'human_pose': 'light'})
    crops = {'crops': 0.5}
    losses = losses_of(base, coco, tmp_path / 'out', [(48, 64)], steps=30, windows=crops)
    assert [set(step) for step in losses[:4]] == [{'human_pose'}, {'human_pose_crops'}] * 2
    values = [step['human_pose_crops'] for step in losses[1::2]]
    assert np.mean(values[-4:]) < 0.7 * np.mean(values[:4])


def test_loading_in_threads_does_not_change_the_losses(coco: Path, tmp_path: Path) -> None:
    base = save_tiny(tmp_path / 'base', {'human_pose': 'light'})
    runs = []
    for workers in (0, 2):
        torch.manual_seed(0)
        model = model_to_finetune(base, ['human_pose'], 'light')
        windows = WindowConfig(fit='cover', workers=workers, crops=0.4)
        config = TrainingConfig(steps=6, batch_size=2)
        folder = tmp_path / str(workers)
        run = train(
            model, open_data([str(coco)]), None, config, [(48, 64)], folder, windows=windows
        )
        runs.append([losses for _, losses in run])
    assert runs[0] == runs[1]


def test_gradient_accumulation_does_not_change_the_losses_on_crops(
    coco: Path, tmp_path: Path
) -> None:
    """The statistics of the batch normalization stay those of the checkpoint."""
    base = save_sdpose(tmp_path / 'base')
    runs = [
        losses_of(
            base,
            coco,
            tmp_path / str(rounds),
            [(64, 48)],
            steps=3,
            gradient_accumulation_steps=rounds,
        )
        for rounds in (1, 2)
    ]
    for whole, halves in zip(*runs, strict=True):
        assert whole['human_pose'] == pytest.approx(halves['human_pose'], rel=1e-4)


def words(base: Path, coco: Path, out: Path, *more: object) -> list[str]:
    options = ['--base', base, '--data', coco, '--out', out, '--tasks', 'human_pose']
    numbers = ['--steps', 2, '--batch-size', 2, '--workers', 0]
    return [str(word) for word in (*options, *numbers, *more)]


def test_the_command_fine_tunes_sdpose_and_the_engine_runs_the_result(
    coco: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, out = save_sdpose(tmp_path / 'base', 133), tmp_path / 'out'
    (base / FILE).unlink()  # as it is published
    options = ['--task-options', 'human_pose.crop_height_px=96', '--validate', coco]
    assert train_command.main(words(base, coco, out, *options)) == 0
    assert 'data sets have 17 of the 133 joints' in capsys.readouterr().out
    config = read_config(out / FILE)
    assert config.provenance['windows'] == ['72x96']
    assert config.tasks['human_pose'].head == 'deconv'
    model, _ = checkpoint.load(str(out))
    before, _ = checkpoint.load(str(base))
    assert model.tasks['human_pose'].channels == 133
    for name in ('deconv_layers.1.running_mean', 'deconv_layers.1.running_var'):
        torch.testing.assert_close(
            model.heads['human_pose'].state_dict()[name],
            before.heads['human_pose'].state_dict()[name],
        )
    rgb = np.random.default_rng(0).integers(0, 255, (96, 128, 3), np.uint8)
    engine = Engine.load(str(out), device='cpu')
    poses: Any = engine.predict([rgb], boxes=[[Box(20, 10, 40, 60)]])[0]['human_pose']
    assert poses.joint_count == 133


def test_impossible_trainings_on_crops_are_refused(
    coco: Path, tmp_path: Path, frames: Path
) -> None:
    sdpose = save_sdpose(tmp_path / 'sdpose')
    depth = save_tiny(tmp_path / 'depth')
    both = words(sdpose, coco, tmp_path / 'out')
    with pytest.raises(ValueError, match='human_pose reads crops of people, and depth whole'):
        train_command.main([*both, '--tasks', 'human_pose', 'depth'])
    with pytest.raises(ValueError, match='the joints of human_pose are those of its head'):
        train_command.main([*both, '--task-options', 'human_pose.skeleton=coco_wholebody'])
    no_people = words(depth, frames, tmp_path / 'out', '--tasks', 'depth', '--crops', '0.5')
    with pytest.raises(ValueError, match='--crops trains human_pose, and the tasks are depth'):
        train_command.main([*no_people, '--sizes', '32x24'])


def test_a_note_says_that_crops_are_smaller_than_those_of_a_second_look(
    coco: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second look at an image of 128 x 96 pixels has crops 128 pixels high."""
    base = save_tiny(tmp_path / 'base', {'human_pose': 'light'})
    for number, sizes in enumerate((['64x48'], ['64x48', '128x96'])):
        more = ('--crops', 0.5, '--sizes', *sizes)
        assert train_command.main(words(base, coco, tmp_path / str(number), *more)) == 0
        shown = capsys.readouterr().out
        told = 'crops in training are up to 64 px high, those of a second look 128 px' in shown
        assert told == (number == 0)


def test_a_crop_is_rotated_around_the_centre_of_its_region() -> None:
    warp = warp_of(Region(10, 20, 30, 40), 31, 41, 90)
    np.testing.assert_allclose(warp @ (25, 40, 1), (15, 20), atol=1e-9)
    # One pixel to the right goes one pixel down.
    np.testing.assert_allclose(warp @ (26, 40, 1), (15, 21), atol=1e-9)
