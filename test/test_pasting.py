"""People and things of one frame in another: who is before whom, and what is then known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sd_perception_ros.data import pasting
from sd_perception_ros.data.pasting import paste
from sd_perception_ros.skeleton import OUTSIDE
from sd_perception_ros.types import Sample

HEIGHT, WIDTH = 8, 12


class Draws:
    """A generator whose draws are given: scale, shifts, and which parts are pasted."""

    def __init__(self, scale: float = 1.0, across: float = 0.0, chance: float = 0.0) -> None:
        self._uniform = [math.log(scale), across, 0.0]
        self._chance = chance

    def uniform(self, low: float, high: float) -> float:
        return self._uniform.pop(0)

    def random(self) -> float:
        return self._chance


def frame(depth_m: float, person: slice | None = None, person_m: float = 0.0) -> Sample:
    """Return a wall at a depth, and a person in some columns of all rows."""
    sample = {
        'image': torch.full((1, 3, HEIGHT, WIDTH), -1.0),
        'depth_m': torch.full((1, 1, HEIGHT, WIDTH), depth_m),
        'normals': torch.tensor([0.0, 0, -1]).view(1, 3, 1, 1).expand(1, 3, HEIGHT, WIDTH).clone(),
        'labels': torch.full((1, 1, HEIGHT, WIDTH), 2.0),
        'foreground': torch.zeros(1, 1, HEIGHT, WIDTH),
        'matte': torch.zeros(1, 1, HEIGHT, WIDTH),
        'joints': torch.zeros(1, 2, 17, 3),
    }
    if person is not None:
        sample['image'][..., person] = 1.0
        sample['depth_m'][..., person] = person_m
        sample['labels'][..., person] = 5.0
        sample['foreground'][..., person] = 1.0
        sample['matte'][..., person] = 1.0
        sample['joints'][0, 0, :] = torch.tensor([person.start, 4.0, 2.0])
    return sample


def test_a_person_in_front_of_the_wall_is_pasted_with_all_ground_truth() -> None:
    pasted = paste(frame(5.0), frame(9.0, slice(2, 4), 3.0), Draws(across=0.25))  # 3 px right
    here = slice(5, 7)
    assert (pasted['image'][..., here] == 1).all()
    assert (pasted['depth_m'][..., here] == 3).all()
    assert (pasted['labels'][..., here] == 5).all()
    assert (pasted['matte'][..., here] == 1).all()
    assert (pasted['foreground'][..., here] == 1).all()
    assert (pasted['normals'][..., here] == 0).all()  # seen under another angle: unknown
    assert pasted['joints'][0, 2, 0].tolist() == [5, 4, 2]
    elsewhere = torch.ones(WIDTH, dtype=torch.bool)
    elsewhere[here] = False
    for name in ('image', 'depth_m', 'labels', 'matte', 'foreground', 'normals'):
        torch.testing.assert_close(pasted[name][..., elsewhere], frame(5.0)[name][..., elsewhere])


def test_a_person_behind_the_wall_is_not_pasted() -> None:
    pasted = paste(frame(2.0), frame(9.0, slice(2, 4), 3.0), Draws())
    for name, value in frame(2.0).items():
        torch.testing.assert_close(pasted[name][:, : value.shape[1]], value)
    assert (pasted['joints'][:, 2:] == 0).all()  # nobody has come


def test_a_person_of_twice_the_size_has_half_the_depth() -> None:
    pasted = paste(frame(5.0), frame(9.0, slice(5, 7), 3.0), Draws(scale=2.0))
    assert pasted['depth_m'][0, 0, 4, 4:8].tolist() == [1.5] * 4


def test_an_occluded_person_has_hidden_joints() -> None:
    behind = frame(9.0, slice(2, 4), 4.0)
    pasted = paste(behind, frame(9.0, slice(2, 4), 3.0), Draws())
    assert pasted['joints'][0, 0, 0].tolist() == [2, 4, 1]  # hidden
    assert pasted['joints'][0, 2, 0].tolist() == [2, 4, 2]  # the one before


def test_a_joint_that_is_shifted_out_of_the_image_is_outside() -> None:
    donor = frame(9.0, slice(2, 4), 3.0)
    donor['joints'][0, 0, 0] = torch.tensor([11.0, 4.0, 1.0])
    pasted = paste(frame(5.0), donor, Draws(across=0.25))
    assert pasted['joints'][0, 2, 0].tolist() == [14, 4, OUTSIDE]


def test_pasting_people_only_keeps_the_furniture() -> None:
    donor = frame(9.0, slice(2, 4), 3.0)
    donor['foreground'][..., 8:] = 1.0
    donor['depth_m'][..., 8:] = 3.0
    donor['labels'][..., 8:] = 4.0
    people = paste(frame(5.0), donor, Draws(chance=0.0))
    assert (people['labels'][..., 8:] == 2).all()
    everything = paste(frame(5.0), donor, Draws(chance=0.9))
    assert (everything['labels'][..., 8:] == 4).all()
    assert (everything['matte'][..., 8:] == 0).all()


@pytest.mark.parametrize('seed', range(20))
def test_alpha_stays_within_0_and_1_after_any_paste(seed: int) -> None:
    sample, donor = frame(5.0, slice(8, 10), 2.0), frame(9.0, slice(2, 6), 3.0)
    pasted = paste(sample, donor, np.random.default_rng(seed))
    for name in ('foreground', 'matte'):
        assert ((pasted[name] >= 0) & (pasted[name] <= 1)).all()
    assert (pasted['matte'] <= pasted['foreground'] + 1e-6).all()
    assert pasted['image'].shape == sample['image'].shape
    assert (pasted['depth_m'] <= sample['depth_m']).all()  # whatever comes in is before it


def test_an_interval_outside_the_image_has_no_overlap() -> None:
    assert pasting._overlap(-10, 4, 8) == (slice(0, 0), slice(10, 10))
    assert pasting._overlap(-1, 4, 8) == (slice(0, 3), slice(1, 4))
    assert pasting._overlap(6, 4, 8) == (slice(6, 8), slice(0, 2))
