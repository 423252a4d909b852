"""Protocols of data sets, the comparison of two checkpoints, and the command that prints both."""

from __future__ import annotations

import json
import math
from pathlib import Path

import cv2
from layouts import LAYOUTS
from models import save_tiny
import numpy as np
import pytest
from scipy import stats
import torch

from sd_perception_ros.checkpoint.config_file import open_checkpoint
from sd_perception_ros.cli import evaluate as command
from sd_perception_ros.cli.contact_sheet import LABEL_PX, stack
from sd_perception_ros.cli.evaluate_sheets import row
from sd_perception_ros.data.formats.hypersim import NYU40
from sd_perception_ros.data.formats.rooms import RoomsDataset
from sd_perception_ros.data.opening import open_data
from sd_perception_ros.data.relabelled import relabel
from sd_perception_ros.evaluation.bootstrap import paired_bootstrap
from sd_perception_ros.evaluation.evaluate import mean_raw, measurable, worst
from sd_perception_ros.evaluation.protocols import PROTOCOLS
from sd_perception_ros.metrics.depth import FIGURES, measure_affine
from sd_perception_ros.tasks import make_task
from sd_perception_ros.types import Matte, Sample

ROOT = Path(__file__).resolve().parents[1]


def flat(height: int, width: int, depth_m: float = 5.0) -> Sample:
    image = torch.zeros(1, 3, height, width)
    return {'image': image, 'depth_m': torch.full((1, 1, height, width), depth_m)}


def counted(name: str, height: int, width: int) -> tuple[int, int, int, int]:
    """Return the first and last row and column in which depth counts."""
    known = ~PROTOCOLS[name].apply(flat(height, width))['depth_m'][0, 0].isnan()
    rows, columns = (known.any(1 - axis).nonzero().flatten() for axis in (0, 1))
    assert known.sum() == len(rows) * len(columns)
    return rows[0].item(), rows[-1].item(), columns[0].item(), columns[-1].item()


def test_on_nyu_depth_is_evaluated_in_the_window_of_eigen() -> None:
    assert counted('nyu', 480, 640) == (45, 470, 41, 600)


@pytest.mark.parametrize(
    ('name', 'shares'),
    [
        ('kitti', (0.3324324, 0.91351351, 0.0359477, 0.96405229)),
        ('kitti_garg', (0.40810811, 0.99189189, 0.03594771, 0.96405229)),
    ],
)
def test_on_kitti_windows_are_fractions_of_the_frame(name: str, shares: tuple[float, ...]) -> None:
    top, bottom, left, right = shares
    expected = (int(top * 352), int(bottom * 352) - 1, int(left * 1216), int(right * 1216) - 1)
    assert counted(name, 375, 1242) == expected


def test_the_frame_of_kitti_is_cropped_at_the_bottom_centre() -> None:
    sample = flat(375, 1242)
    sample['image'][0, 0, 23, 13] = 1  # 375 - 352 rows above, 26 columns beside, 13 to the left
    cut = PROTOCOLS['kitti'].apply(sample)
    assert cut['image'].shape == (1, 3, 352, 1216)
    assert cut['image'][0, 0, 0, 0] == 1


def test_images_of_another_size_than_the_protocol_are_refused() -> None:
    with pytest.raises(ValueError, match='window of 640x480 images, got 320x240'):
        PROTOCOLS['nyu'].apply(flat(240, 320))
    with pytest.raises(ValueError, match='crops 1216x352 from every image, got 1242x300'):
        PROTOCOLS['kitti'].apply(flat(300, 1242))


def test_the_range_of_a_protocol_reaches_the_measure() -> None:
    ramp = torch.tensor([[[[1.0, 9.0, 20.0]]]])
    sample = {'image': torch.zeros(1, 3, 1, 3), 'depth_m': ramp}
    values = np.array([[0.0, 1.0, 0.0]], np.float32)  # exact for what lies within 10 m
    within = measure_affine(values, PROTOCOLS['scannet'].apply(sample))
    assert within[0, FIGURES.index('rmse_m')] == pytest.approx(0, abs=1e-5)
    assert measure_affine(values, PROTOCOLS['any'].apply(sample))[0, 0] > 0.1
    # Nothing nearer than 0.6 m counts on DIODE, and ETH3D has no far end.
    near, values = sample | {'depth_m': torch.tensor([[[[0.5, 1.0, 9.0]]]])}, 1 - values
    assert measure_affine(values, PROTOCOLS['diode'].apply(near))[0, 0] < 1e-5
    assert measure_affine(values, PROTOCOLS['scannet'].apply(near))[0, 0] > 0.1
    assert PROTOCOLS['eth3d'].apply(sample)['range_m'][0, 1] == math.inf


def test_a_sample_without_depth_is_left_as_it_is() -> None:
    sample = {'image': torch.zeros(1, 3, 48, 64), 'matte': torch.zeros(1, 1, 48, 64)}
    assert PROTOCOLS['diode'].apply(sample).keys() == sample.keys()


def test_tasks_are_evaluated_if_the_data_has_their_ground_truth(frames: Path) -> None:
    tasks = {name: make_task(name) for name in ('depth', 'human_pose')}
    assert list(measurable(tasks, RoomsDataset(frames))) == ['depth']
    with pytest.raises(
        ValueError, match=r"expected data with ground truth for .* \(one of \['joints'\]\)"
    ):
        measurable({'human_pose': tasks['human_pose']}, RoomsDataset(frames))


def test_classes_of_the_data_that_the_checkpoint_lacks_are_counted_and_named(
    tmp_path: Path,
) -> None:
    LAYOUTS['folder'](tmp_path)
    dataset = open_data([str(tmp_path)])  # grass, path
    task = make_task('segmentation', {'classes': ['Grass', 'road']})
    with pytest.raises(
        ValueError, match=r'classes of segmentation \(Grass, road\); .* has 1 others: path$'
    ):
        measurable({'segmentation': task}, relabel(dataset, task.class_names))
    known = make_task('segmentation', {'classes': ['road', 'Path', 'grass']})
    renumbered = relabel(dataset, known.class_names)
    assert list(measurable({'segmentation': known}, renumbered)) == ['segmentation']


def test_a_mean_of_frames_of_several_sizes_is_refused(frames: Path) -> None:
    class Shrinking(RoomsDataset):
        """Frames of 48, 40, ... rows."""

        def __getitem__(self, index: int) -> Sample:
            sample = super().__getitem__(index)
            return {name: value[..., : 48 - 8 * index, :] for name, value in sample.items()}

    with pytest.raises(ValueError, match='mean target of depth is 64x48, and a frame has one of'):
        mean_raw({'depth': make_task('depth')}, Shrinking(frames))


# Comparison.


def depth_rows(abs_rel: np.ndarray) -> list[np.ndarray]:
    """Return what Depth.measure gives for images with these errors."""
    return [np.array([[one, 1, 1, 1, 0, 0]], np.float32) for one in abs_rel]


def test_intervals_are_those_of_scipys_paired_bootstrap() -> None:
    rng = np.random.default_rng(0)
    hard = rng.gamma(2, 0.1, 60)
    one, other = hard + rng.normal(0, 0.03, 60), hard + rng.normal(0.01, 0.03, 60)
    task = make_task('depth')
    rows = depth_rows(one), depth_rows(other)
    found = paired_bootstrap((task, task), rows, 4000, seed=1)['abs_rel']
    expected = stats.bootstrap(
        (one, other),
        lambda a, b, axis: a.mean(axis) - b.mean(axis),
        paired=True,
        n_resamples=4000,
        method='percentile',
        rng=2,
    ).confidence_interval
    assert found.value == pytest.approx((one - other).mean(), abs=1e-6)
    width = expected.high - expected.low
    assert found.low == pytest.approx(expected.low, abs=0.08 * width)
    assert found.high == pytest.approx(expected.high, abs=0.08 * width)
    assert paired_bootstrap((task, task), rows, 4000, seed=1)['abs_rel'] == found


def test_images_that_are_hard_for_both_do_not_hide_a_small_difference() -> None:
    hard = np.linspace(0.01, 1, 30)
    task = make_task('depth')
    rows = depth_rows(hard), depth_rows(hard + 0.002)
    found = paired_bootstrap((task, task), rows, 200, seed=0)
    assert found['abs_rel'] == pytest.approx((-0.002, -0.002, -0.002), abs=1e-5)
    assert found['abs_rel'].is_clear
    assert found['delta1'] == (0, 0, 0)
    assert not found['delta1'].is_clear


def test_a_rare_class_is_compared_in_the_resamples_that_have_it() -> None:
    task = make_task('segmentation', {'classes': ['a', 'b'], 'palette': '000000 ffffff'})
    common, rare = np.array([[9, 1], [0, 0]], 'f'), np.array([[5, 0], [2, 3]], 'f')
    perfect = np.array([[5, 0], [0, 5]], 'f')
    rows = [common, common, common, rare], [common, common, common, perfect]
    found = paired_bootstrap((task, task), rows, 300, seed=0)['iou_b']
    assert found.low <= found.value <= found.high < 0


def test_different_images_cannot_be_compared() -> None:
    task = make_task('depth')
    with pytest.raises(ValueError, match='the same images for both, got 3 and 2'):
        paired_bootstrap((task, task), (depth_rows(np.ones(3)), depth_rows(np.ones(2))), 10, 0)


def test_the_worst_images_come_first_and_those_without_a_score_are_left_out() -> None:
    errors = [{'abs_rel': value} for value in (0.1, 0.5, math.nan, 0.3)]
    assert worst(make_task('depth'), errors, 2) == [1, 3]
    right = [{'pck_0.2': value} for value in (0.1, 0.5, math.nan, 0.3)]
    assert worst(make_task('human_pose'), right, 9) == [0, 3, 1]


# The command.


def test_the_command_compares_two_checkpoints_frame_by_frame(
    frames: Path, tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Another random model with depth, and without normals.
    other = save_tiny(tmp_path / 'other', {'depth': 'light', 'human_pose': 'light'}, seed=1)
    file, folder = tmp_path / 'figures.json', tmp_path / 'worst'
    words = ['--checkpoint', tiny_checkpoint, '--against', other, '--data', frames]
    options = ['--resamples', 20, '--json', file, '--pictures', folder, '--worst', 2]
    assert command.main([str(word) for word in (*words, *options)]) == 0

    report = json.loads(file.read_text(), parse_constant=pytest.fail)
    one, two = report['model']['depth'], report['against']['depth']
    assert list(report['difference']) == ['depth']
    change = report['difference']['depth']['abs_rel']
    assert change['value'] == pytest.approx(one['abs_rel'] - two['abs_rel'])
    assert change['low'] <= change['value'] <= change['high']
    assert [frame['key'] for frame in report['frames']] == [f'00000{i}_0' for i in range(4)]
    assert np.mean([frame['depth']['abs_rel'] for frame in report['frames']]) == pytest.approx(
        one['abs_rel']
    )
    assert report['about']['protocol']['far_m'] == 80
    assert report['about']['versions']['numpy'] == np.__version__
    assert report['about']['data']['frames'] == 4

    assert {path.name for path in folder.iterdir()} == {'depth.png', 'normals.png'}
    assert cv2.imread(str(folder / 'normals.png')).shape == (2 * (24 + 240), 968, 3)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ['depth,', '4', 'frames', 'model', 'against', 'model', '-', 'against'] in lines
    assert ['normals,', '4', 'frames', 'model'] in lines
    values = next(line for line in lines if line[:1] == ['abs_rel'])
    assert values[1:3] == [f'{one["abs_rel"]:.3f}', f'{two["abs_rel"]:.3f}']


def test_a_checkpoint_is_no_better_than_itself(
    frames: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ['--checkpoint', tiny_checkpoint, '--against', tiny_checkpoint, '--data', frames]
    assert command.main([str(word) for word in (*words, '--resamples', 5)]) == 0
    out = capsys.readouterr().out
    assert '+0.000 [+0.000, +0.000]' in out
    assert '*' not in out


@pytest.mark.parametrize(
    ('words', 'error'),
    [
        (['--resamples', '0'], r'--resamples must be at least 1, got 0'),
        (['--worst', '-1'], r'--worst must be at least 1, got -1'),
        (['--pictures', __file__], 'exists'),
    ],
)
def test_options_that_would_fail_at_the_end_fail_before_the_evaluation(
    words: list[str], error: str
) -> None:
    with pytest.raises((ValueError, FileExistsError), match=error):
        command.main(['--data', 'nowhere', *words])


def test_tasks_without_ground_truth_in_the_data_are_named(
    frames: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = save_tiny(tmp_path, {'depth': 'light', 'human_pose': 'light'})
    assert command.main(['--checkpoint', str(folder), '--data', str(frames)]) == 0
    out = capsys.readouterr().out
    assert 'not measured, the data has no ground truth for: human_pose' in out
    assert 'pck' not in out


def test_a_row_of_a_sheet_has_image_truth_and_prediction_and_unknown_is_black() -> None:
    truth = torch.ones(1, 1, 24, 32)
    truth[..., 16:] = torch.nan
    rgb = np.full((24, 32, 3), 200, np.uint8)
    answer = Matte(np.full((24, 32), 0.5, np.float32))
    line = row(make_task('matting'), rgb, {'matte': truth}, answer, 'name: mad 0.5')
    assert line.shape == (LABEL_PX + 240, 3 * 320 + 2 * 4, 3)
    assert line[:LABEL_PX].max() > 200
    places = [line[100, x, 0] for x in (100, 324 + 50, 324 + 300, 648 + 50)]
    assert places == [200, 255, 0, 128]
    assert stack([line, line[:, :500]]).shape == (2 * len(line), 968, 3)


def test_class_ids_are_matched_by_name(tmp_path: Path) -> None:
    LAYOUTS['folder'](tmp_path)  # grass and path; all of it is path
    dataset = open_data([str(tmp_path)])
    classes = ('unlabeled', 'tree', 'Path', 'grass')
    sample = relabel(dataset, classes)[0]
    assert sample['labels'].unique().tolist() == [2]
    assert relabel(dataset, classes).classes == classes
    assert relabel(dataset, ('path', 'tree')) is dataset  # grass would be lost
    assert relabel(dataset, ('grass', 'path')) is dataset
    hypersim = tuple(name.replace(' ', '_') for name in NYU40)
    palette = open_checkpoint('genpercept_segmentation').config.tasks['segmentation'].options
    assert set(hypersim) < set(palette['classes'])
