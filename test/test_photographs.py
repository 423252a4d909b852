"""The points marked on photographs, and how a checkpoint is scored on them."""

from __future__ import annotations

import json
from pathlib import Path
import runpy

import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[1] / 'benchmark' / 'photographs'
SCORE = runpy.run_path(str(FOLDER / 'score.py'))
POINTS = json.loads((FOLDER / 'points.json').read_text())
NAMES = ('floor', 'person')
MARK = {
    'nearer': [[0, 50, 100, 50], [0, 50, 50, 50]],  # left before right, left before the middle
    'classes': {'floor': [[0, 0], [100, 0]], 'person': [[100, 100]]},
    'people': [[50, 0, 100, 100]],  # the right half
}


def test_a_ramp_orders_the_pair_that_it_agrees_with():
    depth = np.tile(np.array([1, 9, 0, 9, 3], np.float32), (5, 1))  # the middle is nearest
    scored = SCORE['score'](MARK, depth, None, None, ())
    assert scored.depth == (1, 2)
    assert scored.disparity == (0, 0)
    turned = SCORE['score'](MARK, depth, depth, None, ())
    assert turned.disparity == (1, 2)  # the same values as nearness order the other pair


def test_a_constant_prediction_orders_no_pair():
    assert SCORE['score'](MARK, np.zeros((4, 4), np.float32), None, None, ()).depth == (0, 2)


def test_people_are_false_outside_of_their_boxes_only():
    labels = np.array([[0, 0, 1, 1], [1, 0, 1, 1]], np.uint8)  # one of four pixels to the left
    scored = SCORE['score'](MARK, None, None, labels, NAMES)
    assert scored.false_people == pytest.approx(0.25)
    assert scored.classes == {'floor': (1, 2), 'person': (1, 1)}
    totals = SCORE['summarize']([scored, scored])
    assert totals['class_points'] == pytest.approx(2 / 3)
    assert totals['classes'] == {'floor': 0.5, 'person': 1.0}


def test_an_image_full_of_people_has_no_rate_of_false_people():
    mark = MARK | {'people': [[0, 0, 100, 100]]}
    scored = SCORE['score'](mark, None, None, np.ones((4, 4), np.uint8), NAMES)
    assert scored.false_people is None
    assert SCORE['summarize']([scored])['false_people'] is None


def test_at_least_thirty_photographs_have_points_inside_and_pairs_at_one_height():
    assert len(POINTS) >= 30
    for name, mark in POINTS.items():
        for left_x, left_y, right_x, right_y in mark['nearer']:
            assert abs(left_y - right_y) <= 4, name
            assert abs(left_x - right_x) >= 3, name
        places = [xy for places in mark['classes'].values() for xy in places]
        assert all(0 <= value <= 100 for xy in places for value in xy), name


def test_the_motorcycle_pairs_agree_with_its_stereo_depth():
    loader = runpy.run_path(str(FOLDER / 'loader.py'))
    file = loader['find']([])['motorcycle']
    depth_m = loader['PICTURES']['motorcycle'].read(file).truth['depth_m']
    scored = SCORE['score'](POINTS['motorcycle'], depth_m, None, None, ())
    assert scored.depth == (8, 8)
