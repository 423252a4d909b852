"""Real pictures with ground truth: what is known about them, and what is made of it."""

from __future__ import annotations

import json
from pathlib import Path
import runpy
import sys
from types import SimpleNamespace

from models import save_tiny
import numpy as np
import pytest
import torch

from sd_perception_ros.tasks import make_task
from sd_perception_ros.types import DepthMap, LabelMap, Matte

FOLDER = Path(__file__).resolve().parents[1] / 'benchmark'
REAL = runpy.run_path(str(FOLDER / 'real_pictures.py'))
ASKED = runpy.run_path(str(FOLDER / 'mediapipe_people.py'))
PICTURES, FIND = REAL['PICTURES'], REAL['find']
TASKS = {name: make_task(name) for name in ('depth', 'segmentation', 'matting')}


def test_the_depth_of_the_motorcycle_follows_from_its_calibration():
    shot = PICTURES['motorcycle'].read(FIND([])['motorcycle'])
    depth_m = shot.truth['depth_m']
    assert depth_m.shape == shot.rgb.shape[:2] == (500, 741)
    # The largest disparity is 59.909 px: 994.978 * 0.193001 / (59.909 + 31.086) = 2.110 m.
    assert np.nanmin(depth_m) == pytest.approx(2.110, abs=1e-3)
    assert np.isnan(depth_m).mean() == pytest.approx(0.0735, abs=1e-3)


def test_the_borders_of_voc_objects_are_unknown(tmp_path):
    masks = np.zeros((2, 1, 20), bool)
    masks[0, 0, :3] = True  # a person to the left
    masks[1, 0, 19:] = True  # a chair to the right
    rgb, boxes = np.zeros((1, 20, 3), np.uint8), np.array([[0, 0, 1, 3], [0, 19, 1, 20]])
    np.savez(tmp_path / 'data.npz', rgb=rgb, masks=masks, bboxes=boxes, labels=[15, 9])
    shot = PICTURES['cafeteria'].read(tmp_path / 'data.npz')
    unknown = [np.nan] * 5
    np.testing.assert_equal(
        shot.truth['foreground'][0], [1] * 3 + unknown + [0] * 6 + unknown + [1]
    )
    np.testing.assert_equal(shot.truth['matte'][0], [1] * 3 + unknown + [0] * 6 + unknown + [0])
    assert shot.boxes == [[0, 0, 3, 1]]  # left, top, right, bottom
    sample = REAL['known'](TASKS, shot.truth)
    person = TASKS['segmentation'].class_names.index('person')
    assert sample['labels'][0, 0, 0, [0, 3]].tolist() == [person, 255]


def test_two_of_three_pixels_and_a_wrong_one_make_an_iou_of_a_half():
    person = TASKS['segmentation'].class_names.index('person')
    truth = {'matte': np.array([[1, 1, 1, 0, 0]], np.float32)}
    found = {
        'segmentation': LabelMap(
            np.array([[person, person, 0, person, 1]], np.uint8), np.ones((1, 5), np.float32)
        ),
        'matting': Matte(truth['matte']),
    }
    said = REAL['as_predictions'](TASKS, truth)
    answers = {'model': {'a': found}, 'MediaPipe': {'a': said}}
    figures = REAL['measure'](TASKS, answers, {'a': REAL['known'](TASKS, truth)})
    assert figures['segmentation']['a']['model'] == {'iou_person': 0.5}
    assert figures['segmentation']['a']['MediaPipe'] == {'iou_person': 1.0}
    assert figures['matting']['a']['model'] == {'mad': 0.0, 'soft_iou': 1.0}
    assert 'depth' not in figures


def test_a_fit_that_turns_near_and_far_shows_in_the_correlation():
    sample = {'depth_m': torch.tensor([[[[1.0, 2.0, 3.0, torch.nan]]]])}
    turned = DepthMap(np.array([[0.9, 0.5, 0.1, 0.3]], np.float32))
    [row] = REAL['measure'](
        {'depth': TASKS['depth']}, {'model': {'a': {'depth': turned}}}, {'a': sample}
    )['depth'].values()
    assert row['model']['abs_rel'] == pytest.approx(0, abs=1e-6)
    assert row['model']['correlation'] == pytest.approx(-1)
    flat = np.zeros((1, 4), np.float32)
    assert REAL['correlation'](flat, sample, inverse=False) is None


def test_landmarks_of_a_crop_are_in_pixels_of_the_image():
    marks = [SimpleNamespace(x=0.5, y=0.5, visibility=0.9)] * 33
    marks[27] = SimpleNamespace(x=0.25, y=1.5, visibility=0.9)  # left ankle: below the picture
    marks[28] = SimpleNamespace(x=0.75, y=1.0, visibility=0.1)  # right ankle: hidden
    joints = ASKED['_joints'](marks, 10, 20, 50, 100, (110, 60, 3))
    assert joints[0].tolist() == [29.5, 59.5, 2]
    assert joints[15].tolist() == [0, 0, 0]
    assert joints[16].tolist() == [39.5, 99.5, 1]


def test_a_box_grows_by_a_tenth_of_its_longer_side_within_the_image():
    assert ASKED['_widened']((10, 5, 50, 105), 200, 55) == (0, 0, 55, 115)


def test_without_mediapipe_it_says_how_to_get_it():
    photo = PICTURES['astronaut'].read(FIND([])['astronaut'])
    with pytest.raises(RuntimeError, match='how to install MediaPipe'):
        REAL['ask_mediapipe'](Path(sys.executable), {'astronaut': photo})


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match='unpacked packages'):
        FIND([tmp_path / 'nowhere'])


def test_one_command_evaluates_and_draws_the_available_images(tmp_path, capsys):
    save_tiny(tmp_path / 'tiny', dict.fromkeys(('depth', 'segmentation', 'human_pose'), 'light'))
    words = ['--checkpoint', str(tmp_path / 'tiny'), '--json', str(tmp_path / 'real.json')]
    assert REAL['main']([*words, '--sheet', str(tmp_path / 'sheet.png')]) == 0
    printed = capsys.readouterr().out
    assert 'left out: aloe' in printed
    assert 'motorcycle abs_rel' in printed
    result = json.loads((tmp_path / 'real.json').read_text())
    assert set(result['truth']) == {'depth'}  # nothing else is known of the pictures here
    assert 0 < result['truth']['depth']['motorcycle']['model']['abs_rel'] < 1
    assert set(result['about']['pictures']) == {'motorcycle', 'astronaut'}
    assert (tmp_path / 'sheet.png').stat().st_size > 10_000
