"""Contracts of all tasks: a new task is tested by being in the table."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from sd_perception_ros.tasks import make_task, TASKS
from sd_perception_ros.tasks import normals as normals_file
from sd_perception_ros.tasks import segmentation as segmentation_file
from sd_perception_ros.tasks.task import Task

BEST = {'abs_rel': 0, 'delta1': 1, 'mean_deg': 0, 'mean_iou': 1, 'mae': 0, 'mad': 0, 'pck_0.2': 1}
HEIGHT, WIDTH = 96, 64
# A person who faces the camera with raised arms, so the left side is on the right; u and v.
STANDING = [
    *[(32, 14), (34, 12), (30, 12), (36, 13), (28, 13)],
    *[(40, 24), (24, 24), (48, 18), (16, 18), (52, 8), (12, 8)],
    *[(37, 48), (27, 48), (38, 66), (26, 66), (38, 86), (26, 86)],
]


@pytest.fixture(params=TASKS)
def task(request: pytest.FixtureRequest) -> Task:
    return make_task(request.param)


@pytest.fixture
def sample() -> dict[str, Tensor]:
    """Two pictures of a floor that rises to the right; nothing is known about one corner."""
    generator = torch.Generator().manual_seed(0)
    shape = (2, 1, HEIGHT, WIDTH)
    depth_m = torch.linspace(1, 5, WIDTH).expand(shape).clone()
    depth_m += 0.01 * torch.rand(shape, generator=generator)
    normals = torch.randn(2, 3, HEIGHT, WIDTH, generator=generator)
    normals = normals / normals.norm(dim=1, keepdim=True)
    labels = torch.randint(0, 7, shape, generator=generator).float()
    foreground, matte = (torch.rand(shape, generator=generator).round() for _ in range(2))
    depth_m[..., :4, :4] = torch.nan
    normals[..., :4, :4] = 0
    labels[..., :4, :4] = 255
    foreground[..., :4, :4] = torch.nan
    matte[..., :4, :4] = torch.nan
    joints = torch.zeros(2, 3, 17, 3)
    joints[:, 0, :, :2] = torch.tensor(STANDING).float()
    joints[:, 0, :, 2] = 2
    joints[1, 0, 0] = 0  # outside
    return {
        'depth_m': depth_m,
        'normals': normals,
        'labels': labels,
        'foreground': foreground,
        'matte': matte,
        'joints': joints,
    }


def one(sample: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value[:1] for name, value in sample.items()}


def test_a_perfect_output_scores_perfectly(task: Task, sample: dict[str, Tensor]) -> None:
    target, _ = task.target(one(sample))
    figures = task.summarize([task.measure(task.decode(target[0]), one(sample))])
    name = next(name for name in BEST if name in figures)
    # Two percent of depth at either end is clipped, as the target's quantiles have it.
    assert figures[name] == pytest.approx(BEST[name], abs=0.02)


def test_a_perfect_output_has_nearly_no_loss(task: Task, sample: dict[str, Tensor]) -> None:
    target, valid = task.target(sample)
    assert task.loss(target.clone(), target, valid).item() == pytest.approx(0, abs=0.02)


def test_a_wrong_output_has_a_larger_loss(task: Task, sample: dict[str, Tensor]) -> None:
    target, valid = task.target(sample)
    wrong, half = (task.loss(share * target, target, valid) for share in (-1, 0.5))
    assert wrong > half - 1e-4
    assert wrong > 0.3


def test_pixels_marked_invalid_do_not_count(task: Task, sample: dict[str, Tensor]) -> None:
    target, valid = task.target(sample)
    generator = torch.Generator().manual_seed(1)
    raw = torch.rand(target.shape, generator=generator)
    changed = torch.where(valid, raw, raw + 7)
    assert not valid.all()
    torch.testing.assert_close(task.loss(raw, target, valid), task.loss(changed, target, valid))


def test_an_image_without_ground_truth_gives_a_loss_of_zero_and_a_gradient(task: Task) -> None:
    nothing = {
        'depth_m': torch.full((1, 1, 8, 8), torch.nan),
        'normals': torch.zeros(1, 3, 8, 8),
        'labels': torch.full((1, 1, 8, 8), 255.0),
        'foreground': torch.full((1, 1, 8, 8), torch.nan),
        'matte': torch.full((1, 1, 8, 8), torch.nan),
        'joints': torch.zeros(1, 3, 17, 3),
    }
    target, valid = task.target(nothing)
    raw = torch.rand(target.shape, requires_grad=True)
    loss = task.loss(raw, target, valid)
    loss.backward()
    assert loss.item() == 0
    assert raw.grad is not None
    assert raw.grad.isfinite().all()


def test_the_gradient_is_finite_even_on_a_perfect_output(
    task: Task, sample: dict[str, Tensor]
) -> None:
    target, valid = task.target(sample)
    raw = target.clone().requires_grad_()
    task.loss(raw, target, valid).backward()
    assert raw.grad is not None
    assert raw.grad.isfinite().all()


def test_a_task_colors_its_prediction_at_its_own_size(
    task: Task, sample: dict[str, Tensor]
) -> None:
    target, _ = task.target(one(sample))
    colors = task.colorize(task.decode(target[0]))
    assert colors.shape == (HEIGHT, WIDTH, 3)
    assert colors.dtype == np.uint8
    assert colors.std() > 10


def test_the_error_for_an_unknown_task_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r'depht.*depth, disparity, normals'):
        make_task('depht')


def test_the_error_for_an_unknown_option_has_a_suggestion() -> None:
    with pytest.raises(ValueError, match="did you mean 'y_sign'"):
        make_task('normals', {'ysign': -1})


def test_depth_is_0_near_and_1_far_and_the_sky_is_far() -> None:
    depth_m = torch.linspace(1, 5, 101).view(1, 1, 1, 101).clone()
    depth_m[..., -1] = torch.inf
    target, valid = make_task('depth').target({'depth_m': depth_m})
    values = make_task('depth').decode(target[0]).values[0]
    assert valid.all()
    assert values[0] == 0
    assert values[49] == pytest.approx(0.5, abs=0.02)
    assert values[-1] == 1


def test_near_is_warm_and_far_is_cold() -> None:
    depth = make_task('depth')
    near, far = depth.colorize(depth.decode(torch.tensor([[[-0.8, 0.8]]])))[0].astype(int)
    assert near[0] > near[2]
    assert far[2] > far[0]


def test_a_floor_is_green_and_a_facing_wall_is_blue() -> None:
    normals = make_task('normals')
    raw = torch.tensor([[0.0, -1.0, 0.0], [0.0, 0.0, -1.0]]).T[:, None, :]
    floor, wall = normals.colorize(normals.decode(raw))[0].tolist()
    assert floor == [128, 255, 128]
    assert wall == [128, 128, 255]


def test_a_sign_flips_the_axis_of_a_checkpoint() -> None:
    raw = torch.tensor([0.0, 3.0, 4.0]).view(3, 1, 1)
    plain = make_task('normals').decode(raw).values[0, 0]
    turned = make_task('normals', {'y_sign': -1}).decode(raw).values[0, 0]
    np.testing.assert_allclose(plain, [0, 0.6, 0.8], atol=1e-6)
    np.testing.assert_allclose(turned, [0, -0.6, 0.8], atol=1e-6)


def test_normals_decoded_on_the_device_equal_those_on_the_cpu() -> None:
    raw = torch.randn(3, 40, 50, generator=torch.Generator().manual_seed(0))
    raw[:, 7, 9] = 0.0
    here, there = (
        read(raw, (1, -1, 1)) for read in (normals_file._units, normals_file._units_on_device)
    )
    np.testing.assert_allclose(here, there, atol=1e-6)
    assert here[7, 9].tolist() == [0, 0, 0]


def test_a_colour_between_two_classes_has_no_confidence() -> None:
    options = {'readout': 'palette', 'palette': '000000 ffffff', 'classes': []}
    segmentation = make_task('segmentation', options)
    prediction = segmentation.decode(torch.tensor([-1.0, 0.0, 0.9]).expand(3, 1, 3))
    assert prediction.labels.tolist() == [[0, 0, 1]]
    np.testing.assert_allclose(prediction.confidence, [[1, 0, 0.9]], atol=1e-5)


def test_a_class_has_the_probability_of_its_score() -> None:
    segmentation = make_task('segmentation', {'classes': ['no', 'yes']})
    prediction = segmentation.decode(torch.tensor([[[0.0, 0.0]], [[0.0, np.log(3)]]]).float())
    assert prediction.labels.tolist() == [[0, 1]]
    np.testing.assert_allclose(prediction.confidence, [[0.5, 0.75]], atol=1e-6)


def test_classes_decoded_on_the_device_equal_those_on_the_cpu() -> None:
    raw = torch.randn(7, 40, 50, generator=torch.Generator().manual_seed(0)) * 5
    here, there = segmentation_file._scores(raw), segmentation_file._scores_on_device(raw)
    np.testing.assert_array_equal(here.labels, there.labels)
    np.testing.assert_allclose(here.confidence, there.confidence, atol=1e-5)


def test_more_classes_than_colours_are_refused() -> None:
    with pytest.raises(ValueError, match='classes must be 2 to 2 names'):
        make_task('segmentation', {'classes': ['a', 'b', 'c'], 'palette': '000000 ffffff'})


def test_disparity_is_1_near_and_0_far_and_the_sky_is_far() -> None:
    depth_m = torch.tensor([[[[1.0] * 10 + [2.0] * 10 + [torch.inf] * 10]]])
    target, valid = make_task('disparity').target({'depth_m': depth_m})
    values = make_task('disparity').decode(target[0]).values[0]
    assert valid.all()
    np.testing.assert_allclose(values[[0, 15, 25]], [1, 0, 0], atol=1e-6)


def test_a_matte_half_as_bright_as_the_truth_is_wrong_by_half() -> None:
    matting = make_task('matting')
    sample = {'matte': torch.ones(1, 1, 10, 100)}
    figures = matting.summarize([matting.measure(matting.decode(torch.zeros(1, 10, 100)), sample)])
    assert figures['mad'] == 0.5


def test_foreground_with_half_of_the_objects_has_the_f_measure_of_half_recall() -> None:
    foreground = make_task('foreground')
    sample = {'foreground': torch.tensor([1.0, 1.0, 0.0, 0.0]).repeat(1, 1, 4, 1)}
    found = foreground.decode(torch.tensor([1.0, -1.0, -1.0, -1.0]).repeat(1, 4, 1))
    figures = foreground.summarize([foreground.measure(found, sample)])
    # Precision 1, recall 0.5: 1.3 * 0.5 / (0.3 + 0.5).
    assert figures['max_f'] == pytest.approx(0.8125)
    assert figures['mae'] == pytest.approx(0.25)


def test_an_option_of_a_task_without_options_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown option 'x'; there are no options here"):
        make_task('matting', {'x': 1})
