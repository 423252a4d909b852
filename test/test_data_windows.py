"""Data as a training takes it: opened by name, mixed, brought to windows, read ahead."""

from __future__ import annotations

import math
from pathlib import Path
import threading

from hypothesis import given
from hypothesis import strategies as st
from layouts import coco_file, keypoints, LAYOUTS, person, picture
from models import tiny_model, tiny_vae
import numpy as np
import pytest
import torch

import sd_perception_ros
from sd_perception_ros.data.dataset import Arrays, FrameFiles
from sd_perception_ros.data.formats.rooms import RoomsDataset
from sd_perception_ros.data.mixture import Mixture
from sd_perception_ros.data.opening import open_data
from sd_perception_ros.data.resident import ResidentDataset
from sd_perception_ros.data.samples import collate
from sd_perception_ros.data.windows import (
    center_crop,
    prefetch,
    resize_sample,
    resize_to_cover,
    resize_to_fit,
)
from sd_perception_ros.skeleton import INDEX
from sd_perception_ros.tasks import make_task
from sd_perception_ros.training.finetune import previews, train
from sd_perception_ros.training.options import TrainingConfig, WindowConfig
from sd_perception_ros.training.pretrain import train_autoencoder
from sd_perception_ros.types import Sample

DEMO = Path(sd_perception_ros.__file__).parent / 'assets' / 'demo_sequence' / 'frames'


@pytest.fixture
def sets(tmp_path: Path) -> tuple[Path, Path]:
    """Return a folder of two pictures of other sizes, and one of three more."""
    mine, other = tmp_path / 'mine', tmp_path / 'other'
    LAYOUTS['folder'](mine)
    for index in range(3):
        picture(other / 'image' / f'{index}.png', 7, 9, level=10 * index)
        (other / 'depth').mkdir(exist_ok=True)
        np.save(other / 'depth' / f'{index}.npy', np.full((7, 9), 3.0))
    return mine, other


def column(*values: float) -> torch.Tensor:
    """Return a map of two equal rows."""
    return torch.tensor(values, dtype=torch.float32).expand(1, 1, 2, -1).clone()


def test_resized_depth_and_classes_are_those_of_the_nearest_pixel() -> None:
    sample = {
        'image': column(1, 1, -1, -1).expand(1, 3, 2, 4),
        'depth_m': column(1, 2, math.nan, math.inf),
        'labels': column(0, 4, 4, 255),
        'matte': column(0, 1, 0.5, math.nan),
    }
    half = resize_sample(sample, 1, 2)
    # Antialiased: a triangle of 4 pixels, which weighs the first three with 3, 3 and 1.
    assert half['image'][0, 0, 0].tolist() == pytest.approx([5 / 7, -5 / 7])
    for name in ('depth_m', 'labels'):
        for value in half[name].flatten().tolist():
            assert any(value == v or (value != value and v != v) for v in sample[name].flatten())
    assert half['matte'][0, 0, 0].isfinite().all()


def test_mostly_unknown_pixels_stay_unknown_and_others_are_means_of_known_values() -> None:
    matte = torch.full((1, 1, 8, 8), 0.5)
    matte[..., :5] = math.nan
    sample = resize_sample({'image': torch.zeros(1, 3, 8, 8), 'matte': matte}, 2, 2)
    assert sample['matte'][0, 0, :, 0].isnan().all()
    assert sample['matte'][0, 0, :, 1].tolist() == [0.5, 0.5]


def test_resized_normals_are_unit_vectors() -> None:
    normals = torch.zeros(1, 3, 4, 8)
    normals[:, 0, :, :4] = -1
    normals[:, 2, :, 4:] = -1
    normals[..., -4:] = torch.where(torch.arange(4) > 1, 0.0, normals[..., -4:])  # unknown
    found = resize_sample({'image': torch.zeros(1, 3, 4, 8), 'normals': normals}, 2, 4)['normals']
    length = found.norm(dim=1)
    assert ((length == 0) | ((length - 1).abs() < 1e-6)).all()
    assert found[0, :, 0, 0].tolist() == [-1, 0, 0]
    assert length[0, :, -1].tolist() == [0, 0]
    between = found[0, :, 0, 1]
    assert between[0] < 0
    assert between[2] < 0


def test_a_joint_at_the_edge_stays_at_the_edge_after_resizing() -> None:
    joints = torch.zeros(1, 1, 17, 3)
    joints[0, 0, INDEX['nose']] = torch.tensor([-0.5, 1.5, 2])  # the corner at the lower left
    joints[0, 0, INDEX['left_eye']] = torch.tensor([1.0, 0.5, 1])
    found = resize_sample({'image': torch.zeros(1, 3, 2, 3), 'joints': joints}, 4, 9)['joints'][
        0, 0
    ]
    assert found[INDEX['nose']].tolist() == [-0.5, 3.5, 2]
    assert found[INDEX['left_eye']].tolist() == [4, 1.5, 1]  # the middle stays the middle
    assert found.count_nonzero() == 6


@given(height=st.integers(1, 40), width=st.integers(1, 40), side=st.integers(1, 24))
def test_a_resized_image_just_covers_the_window(height: int, width: int, side: int) -> None:
    size = (side, 2 * side)
    sample: Sample = {
        'image': torch.zeros(1, 3, height, width),
        'depth_m': torch.ones(1, 1, height, width),
    }
    covered = resize_to_cover(sample, size)['image'].shape[-2:]
    assert covered[0] >= size[0]
    assert covered[1] >= size[1]
    assert covered[0] == size[0] or covered[1] == size[1]
    assert center_crop(sample, size)['depth_m'].shape[-2:] == size
    larger = resize_to_cover(sample, size, enlarge_only=True)['image'].shape[-2:]
    assert larger == ((height, width) if height >= size[0] and width >= size[1] else covered)


def test_samples_with_different_numbers_of_people_are_collated() -> None:
    one, none = torch.ones(1, 2, 17, 3), torch.zeros(1, 0, 17, 3)
    image = torch.zeros(1, 3, 2, 2)
    joints = collate([{'image': image, 'joints': one}, {'image': image, 'joints': none}])['joints']
    assert joints.shape == (2, 2, 17, 3)
    assert (joints[0] == 1).all()
    assert (joints[1] == 0).all()


def test_in_a_mixture_of_9_to_1_nine_in_ten_images_are_from_the_first_set(
    sets: tuple[Path, Path],
) -> None:
    mixture = open_data([f'folder:{sets[0]}@9', f'{sets[1]}@1'])
    assert isinstance(mixture, Mixture)
    assert len(mixture) == 5
    rng = np.random.default_rng(0)
    drawn = np.bincount([mixture.draw(rng) for _ in range(10000)], minlength=5)
    assert drawn[:2].sum() == pytest.approx(9000, abs=100)
    assert drawn.tolist() == pytest.approx([4500, 4500, 333, 333, 333], abs=150)
    assert [mixture.key(i).split()[-1] for i in range(5)] == [
        'a.png',
        'b.png',
        '0.png',
        '1.png',
        '2.png',
    ]
    with pytest.raises(IndexError):
        mixture[5]


def test_a_mixture_has_the_ground_truth_common_to_all_sets(sets: tuple[Path, Path]) -> None:
    mixture = open_data([str(folder) for folder in sets])
    assert mixture.truths == ('depth_m',)
    assert set(mixture[0]) == set(mixture[4]) == {'image', 'depth_m'}
    assert mixture.sets_without('normals') == [f'folder:{sets[1]}']
    other = open_data([f'{sets[0]}@2', str(sets[1])])
    assert other.fingerprint() != mixture.fingerprint()


def test_class_ids_of_different_classes_are_not_mixed(
    sets: tuple[Path, Path], frames: Path
) -> None:
    mixture = open_data([str(sets[0]), str(frames)])
    assert mixture.truths == ('depth_m', 'normals')
    assert mixture.sets_without('labels') == [mixture.name]


def test_a_mixture_of_one_set_draws_the_same_frames_as_the_set(frames: Path) -> None:
    rng = np.random.default_rng(1)
    drawn = [open_data([str(frames)]).draw(rng) for _ in range(5)]
    rng = np.random.default_rng(1)
    assert drawn == [int(rng.integers(4)) for _ in range(5)]


@pytest.mark.parametrize(
    ('word', 'message'),
    [
        (
            'hypersym:data',
            r"unknown kind of data 'hypersym' in 'hypersym:data'; did you mean 'hyp",
        ),
        ('rooms:data@0', r"weight above 0 after the @ of 'rooms:data@0', got 0"),
        ('rooms:data@-1', 'weight above 0'),
        ('dis5k:data:DIS-T', r"dis5k has no split 'DIS-T' .* choose one of: DIS-TR, DIS-VD"),
    ],
)
def test_a_wrong_data_argument_is_refused_with_a_suggestion(word: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_data([word])


def test_a_path_may_contain_colons_and_at_signs(tmp_path: Path) -> None:
    for name in ('me@home', 'at 9:15', 'v@2.x'):
        picture(tmp_path / name / 'image' / 'a.png')
        assert len(open_data([str(tmp_path / name)])) == 1
        assert len(open_data([f'folder:{tmp_path / name}@3'])) == 1


def test_a_folder_whose_name_ends_like_a_weight_is_a_folder(tmp_path: Path) -> None:
    picture(tmp_path / 'set@2' / 'image' / 'a.png')
    for name in (f'{tmp_path}/set@2', f'folder:{tmp_path}/set@2'):
        assert open_data([name]).name == f'folder:{tmp_path}/set@2'
    mixture = open_data([f'{tmp_path}/set@2', f'folder:{tmp_path}/set@2@3'])
    assert isinstance(mixture, Mixture)
    assert mixture.weights == [1, 3]


def test_a_tilde_is_the_home_folder_also_after_a_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture(tmp_path / 'set' / 'image' / 'a.png')
    monkeypatch.setenv('HOME', str(tmp_path))
    for name in ('~/set', 'folder:~/set', 'folder:~/set@2'):
        assert open_data([name]).name == f'folder:{tmp_path}/set'


def test_images_of_different_sizes_are_trained_together(
    sets: tuple[Path, Path], tmp_path: Path
) -> None:
    mixture = open_data([f'{sets[0]}@3', str(sets[1])])
    model = tiny_model({'depth': 'light'})
    config = TrainingConfig(steps=2, batch_size=4, learning_rate=1e-3)
    windows = WindowConfig(fit='cover')
    run = train(model, mixture, None, config, [(16, 24), (24, 24)], tmp_path, None, windows)
    assert all(math.isfinite(losses['depth']) for _, losses in run)
    rows = previews(model, mixture, (24, 24), frames=2)['depth']
    assert [[image.shape for image in row] for row in rows] == [[(24, 24, 3)] * 3] * 2


def test_different_numbers_of_people_are_trained_together(tmp_path: Path) -> None:
    LAYOUTS['folder'](tmp_path)
    people = [
        person(1, keypoints(nose=(3, 2, 2), left_hip=(4, 4, 2))),
        person(2, keypoints(nose=(1, 1, 2))),
    ]
    (tmp_path / 'keypoints.json').write_text(coco_file(people, 'a.png', 'b.png'))
    config = TrainingConfig(steps=1, batch_size=4)
    windows = WindowConfig(fit='cover')
    model = tiny_model({'human_pose': 'light'})
    dataset = open_data([str(tmp_path)])
    ((_, losses),) = train(model, dataset, None, config, [(24, 32)], tmp_path, None, windows)
    assert math.isfinite(losses['human_pose'])


def test_prefetching_threads_do_not_change_the_result(frames: Path, tmp_path: Path) -> None:
    losses = []
    for workers in (0, 3):
        torch.manual_seed(0)
        config = TrainingConfig(
            steps=3, batch_size=4, gradient_accumulation_steps=2, learning_rate=1e-3
        )
        windows = WindowConfig(workers=workers)
        run = train(
            tiny_model({'depth': 'light'}),
            RoomsDataset(frames),
            None,
            config,
            [(24, 32)],
            tmp_path / str(workers),
            None,
            windows,
        )
        losses.append([step['depth'] for _, step in run])
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    ('fit', 'size'), [('crop', (24, 32)), ('cover', (24, 32)), ('cover', (72, 96))]
)
def test_resident_frames_are_trained_in_windows_of_any_size(
    fit: str, size: tuple[int, int], frames: Path, tmp_path: Path
) -> None:
    resident = ResidentDataset(RoomsDataset(frames), torch.device('cpu'))
    config = TrainingConfig(steps=1, batch_size=2)
    model, windows = tiny_model({'depth': 'light'}), WindowConfig(fit=fit)
    ((_, losses),) = train(model, resident, None, config, [size], tmp_path, None, windows)
    assert math.isfinite(losses['depth'])


def test_the_prefetcher_loads_each_item_once_and_raises_its_errors() -> None:
    made: list[tuple[int, int]] = []
    lock = threading.Lock()

    def make(step: int, place: int) -> tuple[int, int]:
        with lock:
            made.append((step, place))
        if step == 2:
            raise OSError('broken.png')
        return step, place

    with prefetch(make, workers=2) as things:
        assert things.take(0, range(2)) == [(0, 0), (0, 1)]
        assert things.take(1, range(2)) == [(1, 0), (1, 1)]
        with pytest.raises(OSError, match=r'broken.png'):
            things.take(2, range(2))
    assert len(made) == len(set(made))


def test_frames_are_cached_while_there_is_memory_and_can_be_released(
    frames: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, read = RoomsDataset(frames, keep=True), []
    original = RoomsDataset.read

    def counted(self: RoomsDataset, frame: FrameFiles) -> Arrays:
        read.append(frame.key)
        return original(self, frame)

    monkeypatch.setattr(RoomsDataset, 'read', counted)
    monkeypatch.setattr('sd_perception_ros.data.dataset.MAX_MEMORY_PERCENT', 101)  # never full
    for index in (0, 0, 1, 1):
        dataset[index]
    assert len(read) == 2
    monkeypatch.setattr('sd_perception_ros.data.dataset.MAX_MEMORY_PERCENT', 0)  # always full
    for index in (1, 2, 2):
        dataset[index]
    assert len(read) == 4
    dataset.free_memory()
    dataset[0]
    assert len(read) == 5


def test_a_data_set_without_the_ground_truth_of_a_task_is_refused_at_once(
    sets: tuple[Path, Path], tmp_path: Path
) -> None:
    mixture = open_data([str(folder) for folder in sets])
    run = train(
        tiny_model({'normals': 'light'}),
        mixture,
        None,
        TrainingConfig(steps=1),
        [(8, 8)],
        tmp_path,
    )
    with pytest.raises(ValueError, match=rf"'normals', which folder:{sets[1]} does not have"):
        next(run)


def test_classes_of_another_meaning_are_refused_at_once(
    sets: tuple[Path, Path], tmp_path: Path
) -> None:
    dataset = open_data([str(sets[0])])
    windows = WindowConfig(fit='cover')
    config = TrainingConfig(steps=1, batch_size=1)
    model = tiny_model({'segmentation': 'light'})
    run = train(model, dataset, None, config, [(8, 8)], tmp_path, None, windows)
    with pytest.raises(ValueError, match=r'but .* has grass, path; set them with --task-opt'):
        next(run)
    task = make_task('segmentation', {'classes': ['grass', 'path']})
    assert task.target(dataset[0])[0].shape[1] == 2


def test_images_of_different_sizes_can_be_pretrained_on_with_a_frame_size(
    sets: tuple[Path, Path], tmp_path: Path
) -> None:
    dataset = open_data([str(sets[0])])
    config = TrainingConfig(steps=1, batch_size=4)
    ((_, losses),) = train_autoencoder(tiny_vae(), dataset, config, (16, 16), tmp_path)
    assert math.isfinite(losses['pixels'])
    with pytest.raises(ValueError, match=r'b.png: expected an image of 8 x 6 .* --frame-size 8x6'):
        dataset.images([0, 1])
    framed = open_data([str(sets[0])], size=(16, 24))
    assert framed.images([0, 1]).shape == (2, 3, 16, 24)
    assert framed[0]['depth_m'].shape == (1, 1, 16, 24)
    assert framed.fingerprint() != dataset.fingerprint()


def test_zoom_covers_the_window_with_half_to_all_of_the_image() -> None:
    sample = {'image': torch.zeros(1, 3, 48, 64), 'joints': torch.tensor([[[[32.0, 24, 2]]]])}
    widths = set()
    for seed in range(40):
        seen = resize_to_fit(sample, (24, 32), 'zoom', np.random.default_rng(seed))
        height, width = seen['image'].shape[-2:]
        assert height >= 24
        assert 32 <= width <= 64  # 64: a window of 32 shows a half
        assert seen['joints'][0, 0, 0, 0].item() == pytest.approx(width * 32.5 / 64 - 0.5)
        widths.add(width)
    assert len(widths) > 10
    assert resize_to_fit(sample, (24, 32), 'cover', np.random.default_rng(0))['image'].shape[
        -2:
    ] == (24, 32)


def test_training_works_with_random_sizes_pasting_and_camera_faults(tmp_path: Path) -> None:
    data = open_data([f'rooms:{DEMO}'])
    windows = WindowConfig(fit='zoom', size_order='random', appearance='camera', paste=0.5)
    assert not windows.cuts_latents
    model = tiny_model({'depth': 'light', 'segmentation': 'light'})
    config = TrainingConfig(steps=4, batch_size=2, warmup_steps=1)
    sizes = [(16, 16), (16, 24)]
    steps = list(train(model, data, None, config, sizes, tmp_path / 'run', None, windows))
    assert [step for step, _ in steps] == [1, 2, 3, 4]
    assert all(math.isfinite(loss) for _, losses in steps for loss in losses.values())


def test_paste_is_refused_without_mattes(sets: tuple[Path, Path]) -> None:
    data = open_data([f'folder:{sets[1]}'])
    windows = WindowConfig(fit='cover', paste=0.5)
    model, config = tiny_model({'depth': 'light'}), TrainingConfig(steps=1, batch_size=1)
    with pytest.raises(ValueError, match=r"--paste needs 'foreground', which .*other"):
        next(train(model, data, None, config, [(16, 16)], sets[1] / 'run', None, windows))
