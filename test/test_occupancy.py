"""Cells that an obstacle map marks, and how they are compared with the true ones."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from sd_perception_ros.geometry.occupancy_grid import (
    compare,
    draw_grids,
    grid_from_points,
    GridGeometry,
)

GEOMETRY = GridGeometry(resolution_m=0.5, range_m=2.0, min_height_m=0.1, max_height_m=1.0)
SENSOR = np.array([0.0, 0.0, 0.5])


def cells_of(*points: tuple[float, float, float]) -> list[tuple[int, int]]:
    grid = grid_from_points(np.array(points, np.float32).reshape(-1, 3), SENSOR, GEOMETRY)
    return [(int(row), int(column)) for row, column in np.argwhere(grid)]


def test_a_point_marks_its_cell():
    """Eight cells of half a metre a side: ahead is up, left is left."""
    assert cells_of((1.2, 0.2, 0.5)) == [(1, 3)]
    assert cells_of((0.2, 1.2, 0.5)) == [(3, 1)]
    assert cells_of((-0.2, -1.2, 0.5)) == [(4, 6)]


@pytest.mark.parametrize(
    'point',
    [
        (1, 0, 0.05),
        (1, 0, 1.2),
        (1.99, 0, 1.0),
        (np.nan, 0, 0.5),
        (1, 0, np.nan),
        (np.inf, 0, 0.5),
    ],
)
def test_points_out_of_the_limits_mark_no_cell(point):
    """Too low, too high, too far in space (1.99, 0, 0.5) from the sensor, unknown."""
    far = point == (1.99, 0, 1.0)
    assert cells_of(point) == [] or (far and np.hypot(1.99, 0.5) < 2)


def test_the_range_is_the_3d_distance_from_the_sensor():
    assert cells_of((1.95, 0.1, 0.5)) == [(0, 3)]
    assert cells_of((1.95, 0.1, 1.0)) == []


def test_correct_phantom_and_missed_cells_are_counted():
    true, predicted = np.zeros((8, 8), bool), np.zeros((8, 8), bool)
    true[0, 0] = true[7, 7] = True
    predicted[0, 1] = predicted[4, 4] = predicted[4, 5] = True
    exact = compare(predicted, true)
    assert (exact.precision, exact.recall, exact.f1, exact.phantoms) == (0.0, 0.0, 0.0, 2)
    near = compare(predicted, true, tolerance=1)
    assert (near.precision, near.recall, near.phantoms) == (1 / 3, 1 / 2, 1)
    assert near.f1 == pytest.approx(0.4)
    image = draw_grids(predicted, true, 1)
    assert tuple(image[0, 1]) == (225, 225, 225)
    assert tuple(image[4, 5]) == (60, 200, 90) or image[4, 5][0] > 200
    assert image[7, 7][2] == 255


@given(seed=st.integers(0, 99), tolerance=st.integers(0, 3))
def test_equal_grids_score_1_and_scores_are_fractions(seed, tolerance):
    rng = np.random.default_rng(seed)
    a, b = rng.random((2, 16, 16)) < 0.1
    assert compare(a, a, tolerance).f1 == 1 or not a.any()
    scores = compare(a, b, tolerance)
    assert 0 <= scores.precision <= 1
    assert 0 <= scores.recall <= 1
    assert compare(b, a, tolerance).precision == scores.recall


def test_an_empty_grid_has_recall_0_and_no_phantoms():
    true = np.ones((4, 4), bool)
    scores = compare(np.zeros((4, 4), bool), true)
    assert (scores.precision, scores.recall, scores.phantoms) == (1.0, 0.0, 0)
