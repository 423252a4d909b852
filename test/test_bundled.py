"""The checkpoint that ships: every task of it knows more than a guess, on frames it never saw."""

from __future__ import annotations

import pytest

from sd_perception_ros.checkpoint.config_file import SHIPPED
from sd_perception_ros.data.formats.rooms import RoomsDataset
from sd_perception_ros.engine import Engine
from sd_perception_ros.evaluation.evaluate import add, Measured, summarize, to_rgb
from sd_perception_ros.tasks import TASKS

FILM = SHIPPED.parent / 'demo_sequence' / 'frames'
FRAMES = (0, 15, 30, 45, 59)


@pytest.fixture(scope='module')
def figures() -> dict[str, dict[str, float]]:
    engine = Engine.load('bundled', device='cpu')
    film = RoomsDataset(FILM)
    measured: Measured = {}
    for index in FRAMES:
        sample = film[index]
        add(measured, engine.tasks, engine.predict([to_rgb(sample)])[0], sample)
    return summarize(measured, engine.tasks)


def test_it_has_every_task(figures: dict[str, dict[str, float]]) -> None:
    assert set(figures) == set(TASKS)


@pytest.mark.parametrize(
    ('task', 'figure', 'guess'),
    [
        # What one says without looking, on this film: see the table of `make demo`.
        ('depth', 'abs_rel', 0.37),
        ('disparity', 'abs_rel', 0.32),
        ('normals', 'mean_deg', 52),
        ('foreground', 'mae', 0.34),
        ('matting', 'mad', 0.15),
    ],
)
def test_its_error_is_less_than_two_thirds_of_a_constant_baseline(
    figures: dict[str, dict[str, float]], task: str, figure: str, guess: float
) -> None:
    assert figures[task][figure] < 2 / 3 * guess


def test_it_finds_people_and_their_joints(figures: dict[str, dict[str, float]]) -> None:
    """Most of the joints are still wrong: the model card says so."""
    assert figures['segmentation']['iou_person'] > 0.4
    assert figures['human_pose']['pck_0.2'] > 0.2
