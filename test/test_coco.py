"""Average precision of poses against pycocotools on a whole set at once."""

from __future__ import annotations

from collections.abc import Sequence
import contextlib
import math

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
import pytest

from sd_perception_ros.metrics.coco import measure_people, people_summary
from sd_perception_ros.metrics.keypoints import (
    keypoint_matches,
    keypoint_similarity,
    KeypointMatch,
)
from sd_perception_ros.skeleton import SIGMAS
from sd_perception_ros.types import Person

Joints = NDArray[np.float32]
Image = tuple[list[Person], Joints]


def body(rng: np.random.Generator) -> Joints:
    """Return (17, 3) joints of a person of 30 to 300 px, seen in part."""
    size = rng.uniform(30, 300)
    points = rng.uniform(0, 1, (17, 2)) * size * (0.5, 1) + rng.uniform(0, 400, 2)
    flags = rng.choice([0, 1, 2], (17, 1), p=[0.1, 0.2, 0.7])
    return np.where(flags > 0, np.hstack([points, flags]), 0).astype(np.float32)


def image(rng: np.random.Generator) -> Image:
    """Return some true people, and found ones: most of them near, some nowhere."""
    joints = np.zeros((6, 17, 3), np.float32)
    people = []
    for row in joints[: rng.integers(0, 6)]:
        row[:] = body(rng)
        for _ in range(rng.integers(0, 3)):  # missed, found once, found twice
            people.append(seen(row, rng, noise=0.05 * np.ptp(row[:, 1])))
    for _ in range(rng.integers(0, 3)):
        people.append(seen(body(rng), rng, noise=0))
    return people, joints


def seen(joints: Joints, rng: np.random.Generator, noise: float) -> Person:
    found = joints.copy()
    found[:, :2] += rng.normal(0, max(noise, 0), (17, 2))
    found[rng.random(17) < 0.1] = np.nan, np.nan, 0
    score = round(float(rng.random()), 1)  # a step of 0.1, so that some are equal
    return Person(found, np.isfinite(found[:, 0]), score)


def outlined(image: Image, rng: np.random.Generator) -> tuple[list[Person], Joints, Joints]:
    """Return the image with the true people's bodies, some without marks, and perhaps a crowd."""
    people, joints = image
    joints = joints[joints[..., 2].any(1)]
    bodies = []
    for row in joints:
        points = row[row[:, 2] > 0, :2]
        size = np.ptp(points, axis=0) * rng.uniform(1, 2, 2) + 5
        bodies.append([*points.min(0), *size, size.prod() * rng.uniform(0.3, 0.8), 0])
    for crowd in (0, 0, 1)[: rng.integers(0, 4)]:
        bodies.append([*rng.uniform(0, 400, 2), *rng.uniform(50, 300, 2), 5000, crowd])
    return people, joints, np.array(bodies, np.float32).reshape(-1, 6)


def whole_set(images: Sequence[tuple[list[Person], Joints, Joints | None]]) -> list[float]:
    """Return the ten figures that COCOeval prints for all images."""
    true, found = [], []
    for number, (people, joints, bodies) in enumerate(images, 1):
        rows = joints[joints[..., 2].any(1)] if bodies is None else joints
        for place in range(len(rows) if bodies is None else len(bodies)):
            row = rows[place] if place < len(rows) else np.zeros((17, 3), np.float32)
            marked = row[row[:, 2] > 0]
            if bodies is None:
                corner, size = marked[:, :2].min(0), np.ptp(marked[:, :2], axis=0)
                box = [*corner.tolist(), *size.tolist()]
                area, crowd = max(0.53 * size.prod(), 1), not (row[:, 2] > 1).any()
            else:
                *box, area, crowd = bodies[place].tolist()
            true.append(
                {
                    'id': len(true) + 1,
                    'image_id': number,
                    'category_id': 1,
                    'keypoints': row.ravel().tolist(),
                    'num_keypoints': len(marked),
                    'bbox': box,
                    'area': float(area),
                    'iscrowd': int(crowd),
                }
            )
        for person in people:
            known = person.joints[person.visible, :2]
            found.append(
                {
                    'id': len(found) + 1,
                    'image_id': number,
                    'category_id': 1,
                    'keypoints': np.nan_to_num(person.joints, nan=1e7).ravel().tolist(),
                    'area': float(np.prod(np.ptp(known, axis=0))),
                    'score': person.score,
                }
            )
    with contextlib.redirect_stdout(None):
        sets = [COCO(), COCO()]
        for one, bodies in zip(sets, (true, found), strict=True):
            one.dataset = {
                'images': [{'id': number} for number in range(1, len(images) + 1)],
                'categories': [{'id': 1}],
                'annotations': bodies,
            }
            one.createIndex()
        evaluation = COCOeval(*sets, 'keypoints')
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return list(evaluation.stats)


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=15, deadline=None)
def test_results_of_single_images_equal_cocoeval_on_all(seed: int) -> None:
    rng = np.random.default_rng(seed)
    images = [image(rng) for _ in range(12)]
    figures = people_summary([measure_people(*one) for one in images])
    assert as_printed(figures) == pytest.approx(
        whole_set([(*one, None) for one in images])[:8], abs=1e-6
    )


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=15, deadline=None)
def test_outlines_give_areas_and_crowds_and_unlabelled_people_are_ignored(
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    images = [outlined(image(rng), rng) for _ in range(12)]
    figures = people_summary([measure_people(*one) for one in images])
    assert as_printed(figures) == pytest.approx(whole_set(images)[:8], abs=1e-6)


def as_printed(figures: dict[str, float]) -> list[float]:
    names = ('ap', 'ap50', 'ap75', 'ap_medium', 'ap_large', 'ar', 'ar50', 'ar75')
    return [-1 if math.isnan(figures[name]) else figures[name] for name in names]


def standing(u: float) -> Joints:
    """Return a person of 100 x 200 px, all of whose joints are seen."""
    v = np.linspace(0, 200, 17)
    return np.stack([u + v % 100, v, np.full(17, 2)], 1).astype(np.float32)


def exact(joints: Joints, score: float) -> Person:
    return Person(joints, np.ones(17, bool), score)


def test_a_missed_person_halves_recall_and_a_confident_false_positive_halves_precision() -> None:
    true = np.stack([standing(0), standing(300)])
    rows = measure_people([exact(standing(0), 0.5), exact(standing(800), 0.9)], true)
    figures = people_summary([rows])
    assert figures['ar'] == 0.5
    # Precision is 1/2 at 51 of the 101 recalls, those up to 0.5.
    assert figures['ap'] == pytest.approx(0.5 * 51 / 101)


def test_fully_hidden_people_are_ignored() -> None:
    hidden = standing(300)
    hidden[:, 2] = 1
    true = np.stack([standing(0), hidden, np.zeros((17, 3), np.float32)])
    for people in ([exact(standing(0), 0.5)], [exact(standing(0), 0.5), exact(hidden, 0.9)]):
        assert people_summary([measure_people(people, true)])['ap'] == pytest.approx(1)


def test_without_people_there_is_no_precision() -> None:
    nobody = np.zeros((8, 17, 3), np.float32)
    assert measure_people([], nobody).shape == (0, 32)
    figures = people_summary([measure_people([exact(standing(0), 0.9)], nobody)])
    assert all(math.isnan(value) for value in figures.values())


def test_a_prediction_in_a_crowd_is_ignored() -> None:
    joints = standing(0)[None]
    bodies = np.array([[0, 0, 100, 200, 9000, 0], [300, 0, 300, 300, 50000, 1]], np.float32)
    people = [exact(standing(0), 0.5), exact(standing(400), 0.9), exact(standing(900), 0.4)]
    rows = keypoint_matches(people, joints, bodies)
    assert KeypointMatch.summarize(rows)['precision'] == 0.5  # the third one is nobody
    assert KeypointMatch.summarize(keypoint_matches(people, joints))['precision'] == 1 / 3


def test_an_error_of_ten_pixels_counts_more_on_a_smaller_outline() -> None:
    beside = exact(standing(0) + np.array([10, 0, 0], np.float32), 0.5)
    for area in (9000.0, 900.0):
        expected = np.exp(-100 / (2 * area * (2 * SIGMAS) ** 2)).mean()
        assert keypoint_similarity(beside, standing(0), area) == pytest.approx(expected, abs=1e-6)
    unknown = keypoint_similarity(beside, standing(0))  # its joints fill 87.5 x 200 px
    assert unknown == keypoint_similarity(beside, standing(0), 0.53 * 87.5 * 200)
