"""Contracts of all tasks: a new task is tested by being in the table."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from sd_perception_ros.tasks import make_task, TASKS
from sd_perception_ros.tasks.task import Task

BEST = {'abs_rel': 0, 'delta1': 1, 'mean_deg': 0, 'mean_iou': 1}


@pytest.fixture(params=TASKS)
def task(request: pytest.FixtureRequest) -> Task:
    return make_task(request.param)


@pytest.fixture
def sample() -> dict[str, Tensor]:
    """Two pictures of a floor that rises to the right, each with a hole in what is known."""
    generator = torch.Generator().manual_seed(0)
    depth_m = torch.linspace(1, 5, 24).expand(2, 1, 16, 24).clone()
    depth_m += 0.01 * torch.rand(depth_m.shape, generator=generator)
    normals = torch.randn(2, 3, 16, 24, generator=generator)
    normals = normals / normals.norm(dim=1, keepdim=True)
    labels = torch.randint(0, 7, (2, 1, 16, 24), generator=generator).float()
    depth_m[..., :4, :4] = torch.nan
    normals[..., :4, :4] = 0
    labels[..., :4, :4] = 255
    return {'depth_m': depth_m, 'normals': normals, 'labels': labels}


def one(sample: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value[:1] for name, value in sample.items()}


def test_a_perfect_output_scores_perfectly(task: Task, sample: dict[str, Tensor]) -> None:
    target, _ = task.target(one(sample))
    figures = task.summarize([task.measure(task.decode(target[0]), one(sample))])
    name = next(name for name in BEST if name in figures)
    # Two percent of depth at either end is clipped, as the target's quantiles have it.
    assert figures[name] == pytest.approx(BEST[name], abs=0.02)


def test_a_perfect_output_has_next_to_no_loss(task: Task, sample: dict[str, Tensor]) -> None:
    target, valid = task.target(sample)
    assert task.loss(target.clone(), target, valid).item() == pytest.approx(0, abs=0.02)


def test_a_wrong_output_has_a_larger_loss(task: Task, sample: dict[str, Tensor]) -> None:
    target, valid = task.target(sample)
    assert task.loss(-target, target, valid) > task.loss(0.5 * target, target, valid) - 1e-4
    assert task.loss(-target, target, valid) > 0.3


def test_pixels_marked_invalid_do_not_count(task: Task, sample: dict[str, Tensor]) -> None:
    target, valid = task.target(sample)
    generator = torch.Generator().manual_seed(1)
    raw = torch.rand(target.shape, generator=generator)
    changed = torch.where(valid, raw, raw + 7)
    assert not valid.all()
    torch.testing.assert_close(task.loss(raw, target, valid), task.loss(changed, target, valid))


def test_a_picture_without_truth_gives_a_loss_of_zero_and_a_gradient(task: Task) -> None:
    nothing = {
        'depth_m': torch.full((1, 1, 8, 8), torch.nan),
        'normals': torch.zeros(1, 3, 8, 8),
        'labels': torch.full((1, 1, 8, 8), 255.0),
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
    assert colors.shape == (16, 24, 3)
    assert colors.dtype == np.uint8
    assert colors.std() > 10


def test_an_unknown_task_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r'depht.*depth, normals'):
        make_task('depht')


def test_an_unknown_option_of_a_task_is_answered_with_a_guess() -> None:
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


def test_a_sign_turns_the_axis_of_a_checkpoint() -> None:
    raw = torch.tensor([0.0, 3.0, 4.0]).view(3, 1, 1)
    plain = make_task('normals').decode(raw).values[0, 0]
    turned = make_task('normals', {'y_sign': -1}).decode(raw).values[0, 0]
    np.testing.assert_allclose(plain, [0, 0.6, 0.8], atol=1e-6)
    np.testing.assert_allclose(turned, [0, -0.6, 0.8], atol=1e-6)


def test_a_colour_between_two_classes_has_no_confidence() -> None:
    segmentation = make_task('segmentation', {'palette': '000000 ffffff'})
    prediction = segmentation.decode(torch.tensor([-1.0, 0.0, 0.9]).expand(3, 1, 3))
    assert prediction.labels.tolist() == [[0, 0, 1]]
    np.testing.assert_allclose(prediction.confidence, [[1, 0, 0.9]], atol=1e-5)
