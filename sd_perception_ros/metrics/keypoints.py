"""Metrics of human poses: recall and precision of people, accuracy of joints (OKS, PCK)."""

from __future__ import annotations

from collections.abc import Sequence
import math

import numpy as np

from sd_perception_ros.skeleton import INDEX, SIGMAS
from sd_perception_ros.types import Float, Person


class KeypointMatch:
    """
    Columns of the rows of `keypoint_matches`: one row for each true or predicted person.

    True people: height in pixels, object keypoint similarity (OKS) with the matched prediction
    (0: none), number of visible joints, and number of those predicted within 0.2 of the torso
    (PCK). Unmatched predictions (false positives): height 0, and their score.
    """

    HEIGHT_PX, SIMILARITY, VISIBLE, RIGHT, SCORE = range(5)
    LEAST_HEIGHT_PX = 40.0

    @classmethod
    def summarize(cls, rows: Float) -> dict[str, float]:
        """
        Return PCK@0.2 of people taller than 40 px, recall and precision, mean similarity.

        Recall: share of those people that are matched with a similarity of at least 0.5.
        Precision: share of predictions that match a true person of any size. NaN without
        people, or without predictions.
        """
        true = rows[:, cls.HEIGHT_PX] > 0
        tall = rows[rows[:, cls.HEIGHT_PX] >= cls.LEAST_HEIGHT_PX]
        found = int((rows[true, cls.SIMILARITY] >= 0.5).sum())
        wrong = int((~true).sum())
        visible = tall[:, cls.VISIBLE].sum()
        return {
            'pck_0.2': float(tall[:, cls.RIGHT].sum() / visible) if visible else math.nan,
            'recall': float((tall[:, cls.SIMILARITY] >= 0.5).mean()) if len(tall) else math.nan,
            'precision': found / (found + wrong) if found + wrong else math.nan,
            'mean_oks': float(tall[:, cls.SIMILARITY].mean()) if len(tall) else math.nan,
            'people': float(len(tall)),
        }


def keypoint_matches(
    people: Sequence[Person], joints: Float, bodies: Float | None = None
) -> Float:
    """
    Match true people with predictions by similarity, the most similar pairs first.

    Ignored: people without visible joints, and unmatched predictions within the box of a crowd or
    of a person without annotated joints.

    :param joints: (P, 17, 3) truth: u, v in pixels and COCO's flag; rows of 0 are padding.
    :param bodies: (Q, 6) boxes, areas and crowds, as in `Sample`; None if they are not known.
    :returns: (N, 5) rows, see `KeypointMatch`.
    """
    if bodies is None:
        bodies = np.zeros((len(joints), 6), np.float32)  # an area of 0 is unknown
    areas: list[float] = bodies[: len(joints), 4].tolist()
    known = [(t, a) for t, a in zip(joints, areas, strict=True) if (t[:, 2] > 1).any()]
    true = [person for person, _ in known]
    similarity = np.array([[keypoint_similarity(p, t, a) for p in people] for t, a in known])
    similar = similarity.copy()
    pairs: dict[int, int] = {}
    while similarity.size and similarity.max() > 0.1:
        index, match = divmod(int(similarity.argmax()), similarity.shape[1])
        pairs[index] = match
        similarity[index], similarity[:, match] = -1, -1
    rows = []
    for index, person in enumerate(true):
        if index in pairs:
            match = pairs[index]
            rows.append(_match_row(people[match], person, float(similar[index, match])))
        else:
            rows.append(_match_row(None, person, 0.0))
    boxes = bodies[len(joints) :, :4]
    wrong = {
        index
        for index in set(range(len(people))) - set(pairs.values())
        if not any(_is_inside(people[index], box) for box in boxes)
    }
    rows += [[0.0, 0.0, 0.0, 0.0, people[index].score] for index in sorted(wrong)]
    return np.array(rows, np.float32).reshape(-1, 5)


def keypoint_similarity(person: Person, joints: Float, area_px: float = 0.0) -> float:
    """
    Return object keypoint similarity (OKS, COCO keypoint evaluation), 0..1.

    :param area_px: of the person's outline, square pixels: COCO's scale; 0: unknown.
    """
    labelled = joints[:, 2] > 0
    area = area_px or box_area(joints)
    squared = np.square(person.joints[labelled, :2] - joints[labelled, :2]).sum(1)
    variance = np.square(2 * SIGMAS[labelled])
    return float(np.nan_to_num(np.exp(-squared / (2 * area * variance))).mean())


def box_area(joints: Float) -> float:
    """
    Estimate the area of an unknown outline: 0.53 of the box around the joints, square pixels.

    Others use 0.53 of the box of the whole person, which is larger: this estimate is stricter,
    most of all for truncated people.
    """
    box = np.ptp(joints[joints[:, 2] > 0, :2], axis=0) if joints[:, 2].any() else np.zeros(2)
    return max(0.53 * float(box[0] * box[1]), 1.0)


def _is_inside(person: Person, box: Float) -> bool:
    left, top, width, height = box.tolist()
    u, v = np.nanmean(person.joints[:, :2], axis=0).tolist()
    return bool(left <= u <= left + width and top <= v <= top + height)


def _match_row(person: Person | None, joints: Float, similarity: float) -> list[float]:
    labelled, visible = joints[:, 2] > 0, joints[:, 2] > 1
    height = float(np.ptp(joints[labelled, 1]))
    if person is None:
        return [max(height, 1.0), 0.0, float(visible.sum()), 0.0, 0.0]
    apart = np.linalg.norm(person.joints[:, :2] - joints[:, :2], axis=1)
    limit = 0.2 * _torso_px(joints, height)
    right = float((np.nan_to_num(apart, nan=np.inf)[visible] <= limit).sum())
    return [max(height, 1.0), similarity, float(visible.sum()), right, person.score]


def _torso_px(joints: Float, height: float) -> float:
    """Return the longer diagonal between shoulder and hip; a third of the height without one."""
    ends = (('left_shoulder', 'right_hip'), ('right_shoulder', 'left_hip'))
    diagonals = [
        float(np.linalg.norm(joints[INDEX[a], :2] - joints[INDEX[b], :2]))
        for a, b in ends
        if joints[INDEX[a], 2] > 0 and joints[INDEX[b], 2] > 0
    ]
    return max(diagonals, default=height / 3)
