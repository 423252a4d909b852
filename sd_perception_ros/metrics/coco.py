"""Average precision and recall of human poses, as in the COCO keypoint evaluation."""

from __future__ import annotations

from collections.abc import Sequence
import contextlib
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sd_perception_ros.metrics.keypoints import box_area
from sd_perception_ros.types import Float, Person

FIGURES = ('ap', 'ap50', 'ap75', 'ap_medium', 'ap_large', 'ar', 'ar50', 'ar75')
RANGES = 3  # of areas: all, medium, large
THRESHOLDS = 10  # of similarity: 0.5, 0.55 .. 0.95
RECALLS = np.linspace(0, 1, 101)
MAX_PEOPLE = 20  # predictions of one image
# Columns of a row: 0 for ground truth and 1 for a prediction; its score; then its state (below)
# for each range and threshold.
COLUMNS = 2 + RANGES * THRESHOLDS
WRONG, RIGHT, IGNORED = range(3)  # ground truth is RIGHT where it counts, else IGNORED


def measure_people(people: Sequence[Person], joints: Float, bodies: Float | None = None) -> Float:
    """
    Match predicted people of one image with ground truth, by pycocotools.

    COCO scales by the area of the outline of a person. With known outlines (`bodies`), crowds
    and people without annotated joints are ignored, as in COCO. Without them, the area is 0.53 of
    the box around the labelled joints, and people without visible joints are ignored.

    :param joints: (P, 17, 3) truth: u, v in pixels and COCO's flag; rows of 0 are padding.
    :param bodies: (Q, 6) boxes, areas and crowds, as `Sample` has them.
    :returns: (N, 32) float32, a row for each true person and for each of the 20 predictions with
        the highest scores.
    :raises ImportError: pycocotools is not installed.
    """
    if bodies is None:
        true = [
            _true_person(n, person) for n, person in enumerate(joints, 1) if person[:, 2].any()
        ]
    else:
        unlabelled = np.zeros((len(bodies) - len(joints), *joints.shape[1:]), joints.dtype)
        all_joints = np.concatenate([joints, unlabelled])
        pairs = zip(all_joints, bodies, strict=True)
        true = [_true_body(n, person, body) for n, (person, body) in enumerate(pairs, 1)]
    predicted = [_predicted_person(number, person) for number, person in enumerate(people, 1)]
    if not true and not predicted:
        return np.empty((0, COLUMNS), np.float32)
    results = _evaluated(true, predicted)
    scores = np.sort([person.score for person in people])[::-1][:MAX_PEOPLE]
    rows = np.zeros((len(true) + len(scores), COLUMNS), np.float32)
    rows[len(true) :, 0], rows[len(true) :, 1] = 1, scores
    states = rows[:, 2:].reshape(-1, RANGES, THRESHOLDS)
    for number, result in enumerate(results):
        states[: len(true), number] = np.where(result['gtIgnore'], IGNORED, RIGHT)[:, None]
        right, ignored = result['dtMatches'] > 0, result['dtIgnore']
        states[len(true) :, number] = np.where(ignored, IGNORED, np.where(right, RIGHT, WRONG)).T
    return rows


def people_summary(measured: Sequence[Float]) -> dict[str, float]:
    """
    Return average precision and average recall, as COCOeval's `accumulate` has them.

    `ap` and `ar` are means over ten thresholds of similarity from 0.5 to 0.95; medium is an area
    of 32 x 32 to 96 x 96 pixels. NaN without people.
    """
    rows = np.concatenate(measured)
    # Equal scores stay in the order of the images, as in COCO.
    order = np.argsort(-rows[:, 1], kind='stable')
    rows = rows[order]
    states = rows[:, 2:].reshape(-1, RANGES, THRESHOLDS)
    is_predicted = rows[:, 0] == 1
    count = (states[~is_predicted, :, 0] == RIGHT).sum(0)
    precision, recall = np.full((2, RANGES, THRESHOLDS), math.nan)
    for area in np.flatnonzero(count):
        for threshold in range(THRESHOLDS):
            precision[area, threshold], recall[area, threshold] = _average(
                states[is_predicted, area, threshold], int(count[area])
            )
    figures = (
        precision[0].mean(),
        precision[0, 0],
        precision[0, 5],
        precision[1].mean(),
        precision[2].mean(),
        recall[0].mean(),
        recall[0, 0],
        recall[0, 5],
    )
    return {name: float(value) for name, value in zip(FIGURES, figures, strict=True)}


def _average(states: Float, count: int) -> tuple[float, float]:
    """Return average precision and final recall of predicted people, highest score first."""
    right = np.cumsum(states == RIGHT)
    wrong = np.cumsum(states == WRONG)
    if not len(states) or not right[-1]:
        return 0.0, 0.0
    recall = right / count
    precision = right / np.maximum(right + wrong, 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]  # the maximum at this recall or above
    places = np.searchsorted(recall, RECALLS)
    return float(np.append(envelope, 0)[places].mean()), float(recall[-1])


def _true_person(number: int, joints: Float) -> dict[str, Any]:
    corner, size = _box(joints[joints[:, 2] > 0, :2])
    hidden = not (joints[:, 2] > 1).any()
    return _true_body(number, joints, np.array([*corner, *size, 0, hidden]))


def _true_body(number: int, joints: Float, body: NDArray[Any]) -> dict[str, Any]:
    return {
        'id': number,
        'image_id': 1,
        'category_id': 1,
        'keypoints': joints.ravel().tolist(),
        'num_keypoints': int((joints[:, 2] > 0).sum()),
        'bbox': body[:4].tolist(),
        'area': float(body[4]) or box_area(joints),
        'iscrowd': int(body[5]),
    }


def _predicted_person(number: int, person: Person) -> dict[str, Any]:
    known: NDArray[np.bool_] = np.all(np.isfinite(person.joints[:, :2]), axis=1)
    corner, size = _box(person.joints[known, :2])
    far_away = np.where(known[:, None], person.joints, -1e6)  # so that its similarity is 0
    return {
        'id': number,
        'image_id': 1,
        'category_id': 1,
        'keypoints': far_away.ravel().tolist(),
        'bbox': [*corner, *size],
        'area': size[0] * size[1],
        'score': person.score,
    }


def _box(points: Float) -> tuple[list[float], list[float]]:
    """Return the corner and the size of the box around (N, 2) points."""
    if not len(points):
        return [0.0, 0.0], [0.0, 0.0]
    return points.min(0).tolist(), np.ptp(points, axis=0).tolist()


def _evaluated(
    true: list[dict[str, Any]], predicted: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Run COCOeval on one image; return its result for each range of areas."""
    from pycocotools.coco import COCO  # not needed for inference
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(None):  # it prints its progress
        sets = []
        for bodies in (true, predicted):
            annotations = COCO()
            annotations.dataset = {
                'images': [{'id': 1}],
                'categories': [{'id': 1}],
                'annotations': bodies,
            }
            annotations.createIndex()
            sets.append(annotations)
        evaluation = COCOeval(*sets, 'keypoints')
        evaluation.evaluate()
    return list(evaluation.evalImgs)
