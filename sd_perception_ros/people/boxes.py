"""Boxes around people: from their joints, or from the pixels of a segmentation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from sd_perception_ros.types import Float, Person, Poses

# Margin around the joints, as a fraction of their extent: crown, toes and hands lie beyond them.
_BEYOND_JOINTS = 0.125
# Connected pixels that cover a smaller fraction of the image are noise.
_MIN_AREA = 5e-4


class Box(NamedTuple):
    """
    A box around a person, in pixels of the image.

    :ivar left: smallest x; a box may extend beyond the image.
    :ivar score: 0..1, confidence of the detection.
    :ivar person: index of the person in the `Poses` that the box was made from; -1: none.
    """

    left: float
    top: float
    width: float
    height: float
    score: float = 1.0
    person: int = -1


def boxes_of_poses(poses: Poses) -> list[Box]:
    """Return a box around the joints of each person, with a margin, in the order of `poses`."""
    return [
        box_around(points, person.score, number)
        for number, person in enumerate(poses.people)
        if len(points := person.joints[np.isfinite(person.joints[:, 0]), :2])
    ]


def box_around(points: Float, score: float = 1.0, person: int = -1) -> Box:
    """
    Return a box around joints, with a margin of an eighth of their extent.

    :param points: (N, 2) x and y, at least one.
    """
    low, high = points.min(0), points.max(0)
    margin = _BEYOND_JOINTS * max(float((high - low).max()), 1.0)
    left, top = (low - margin).tolist()
    width, height = (high - low + 2 * margin).tolist()
    return Box(left, top, width, height, score, person)


def boxes_of_mask(mask: NDArray[np.bool_], poses: Poses | None = None) -> list[Box]:
    """
    Return a box around each person in a mask of people, the largest first.

    Connected pixels are one person. If several people of `poses` have their centres
    there, each pixel belongs to the nearest centre.

    :param mask: (H, W) bool, pixels of people.
    :param poses: people in the same image, if known.
    """
    count, found, stats, _ = cv2.connectedComponentsWithStats(
        mask.astype(np.uint8), connectivity=8
    )
    labels = np.asarray(found)
    min_area = _MIN_AREA * mask.size
    centres = [] if poses is None else [_centre(person) for person in poses.people]
    boxes: list[tuple[int, Box]] = []
    for label in range(1, count):
        left, top, width, height, area = (int(value) for value in stats[label])
        if area < min_area:
            continue
        own = [n for n, centre in enumerate(centres) if _is_inside(labels, label, centre)]
        if len(own) < 2:
            score, number = (poses.people[own[0]].score, own[0]) if poses and own else (1.0, -1)
            boxes.append((area, Box(left, top, width, height, score, number)))
            continue
        assert poses is not None
        rows, columns = np.nonzero(labels[top : top + height, left : left + width] == label)
        points = np.stack([columns + left, rows + top], 1).astype(np.float32)
        own_centres = np.stack([centres[n] for n in own])
        nearest = np.square(points[:, None] - own_centres).sum(2).argmin(1)
        for index, number in enumerate(own):
            part = points[nearest == index]
            if len(part) >= min_area:
                low, high = part.min(0), part.max(0)
                (left_x, top_y), (width, height) = low.tolist(), (high - low + 1).tolist()
                score = poses.people[number].score
                boxes.append((len(part), Box(left_x, top_y, width, height, score, number)))
    return [box for _, box in sorted(boxes, key=lambda item: -item[0])]


def _centre(person: Person) -> Float:
    """Return the mean (x, y) of a person's joints, NaN without joints."""
    known = person.joints[np.isfinite(person.joints[:, 0]), :2]
    return known.mean(0) if len(known) else np.full(2, np.nan, np.float32)


def _is_inside(labels: NDArray[Any], label: int, centre: Float) -> bool:
    """Return whether a centre is at most 5 pixels away from a labelled region."""
    if not np.isfinite(centre).all():
        return False
    x, y = (round(float(value)) for value in centre)
    around = labels[max(y - 5, 0) : y + 6, max(x - 5, 0) : x + 6]
    return bool((around == label).any())


def highest_scores(boxes: Sequence[Box], count: int) -> list[Box]:
    """Return at most `count` boxes: highest score first, larger boxes first at equal scores."""
    return sorted(boxes, key=lambda box: (-box.score, -box.width * box.height))[:count]
