"""From heat maps to people: peaks, the joints that belong to them, and no person twice."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from sd_perception_ros.types import Float, Grid, Person

# A joint is looked for around where the offset points, within this share of the person's size.
_REACH = 0.2
_LEAST_REACH_CELLS = 2.5
# Two centres are not nearer than half of this: a broad peak has ripples.
_APART_CELLS = 5
# Two people whose joints are nearer than this share of their size are one, found twice.
_SAME = 0.15
Candidate = tuple[float, float, float]  # x and y in cells, heat


def centres(heat: Float, min_heat: float, count: int) -> list[Candidate]:
    """
    Return local maxima, the hottest first.

    :param heat: (h, w) float32.
    :param count: at most so many.
    """
    highest = cv2.dilate(heat, np.ones((_APART_CELLS, _APART_CELLS), np.uint8))
    rows, columns = np.nonzero((heat >= highest) & (heat >= min_heat))
    order = np.argsort(-heat[rows, columns], kind='stable')[:count]
    return [peak_at(heat, int(rows[i]), int(columns[i])) for i in order]


def peak_at(heat: Float, row: int, column: int) -> Candidate:
    """
    Return the top of a peak between cells: the parabola through three logarithms.

    It is exact for a Gaussian, which is what a target is made of.
    """
    place = []
    for line, index in ((heat[row], column), (heat[:, column], row)):
        shift = 0.0
        if 0 < index < len(line) - 1:
            before, here, after = np.log(np.maximum(line[index - 1 : index + 2], 1e-6))
            bend = before - 2 * here + after
            shift = float(np.clip(0.5 * (before - after) / bend, -0.5, 0.5)) if bend < 0 else 0.0
        place.append(index + shift)
    return place[0], place[1], float(np.clip(heat[row, column], 0, 1))


def find_people(
    heat: Float, offsets: Float, found: list[Candidate], min_heat: float, grid: Grid
) -> list[Person]:
    """
    Make a person of each centre, unless a surer one already has these joints.

    :param heat: (17, h, w) float32, 0..1.
    :param offsets: (17, 2, h, w) cells from each cell to the joints of the person there; NaN for
        a joint of which nothing is known.
    :param found: centres, the surest first.
    :param grid: how the cells lie on the picture; people outside it are left out.
    """
    people: list[Person] = []
    places: list[NDArray[np.float32]] = []
    for x, y, score in found:
        row, column = round(y), round(x)
        start = offsets[:, :, row, column] + np.array([column, row], np.float32)
        size = _size(start)
        joints = _joints(heat, start, size, min_heat)
        if any(_distance(joints, other) < _SAME * size for other in places):
            continue
        places.append(joints)
        person = _on_picture(joints, score, min_heat, grid)
        if person is not None:
            people.append(person)
    return people


def _joints(heat: Float, start: Float, size: float, min_heat: float) -> NDArray[np.float32]:
    """Return (17, 3): x and y in cells, and heat; NaN, NaN, 0 for a joint outside."""
    height, width = heat.shape[1:]
    reach = max(_REACH * size, _LEAST_REACH_CELLS)
    joints = np.full((len(heat), 3), np.nan, np.float32)
    joints[:, 2] = 0
    for joint, (x, y) in enumerate(start):
        if not (np.isfinite(x) and np.isfinite(y)):
            continue
        joints[joint] = x, y, 0
        # What is hot at the edge belongs to somebody else, if this one is clearly outside.
        beyond = max(-x, x - width + 1, -y, y - height + 1)
        if beyond > _LEAST_REACH_CELLS:
            continue
        left, right = max(int(x - reach), 0), min(int(x + reach) + 2, width)
        top, bottom = max(int(y - reach), 0), min(int(y + reach) + 2, height)
        window = heat[joint, top:bottom, left:right]
        rows, columns = np.mgrid[top:bottom, left:right]
        nearness = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * reach**2))
        row, column = divmod(int((window * nearness).argmax()), window.shape[1])
        peak = peak_at(heat[joint], top + row, left + column)
        joints[joint] = peak if peak[2] >= min_heat else (x, y, peak[2])
    return joints


def _on_picture(
    joints: NDArray[np.float32], score: float, min_heat: float, grid: Grid
) -> Person | None:
    scaled = joints.copy()
    scaled[:, 0] = (joints[:, 0] + 0.5) * grid.cell_x_px - 0.5
    scaled[:, 1] = (joints[:, 1] + 0.5) * grid.cell_y_px - 0.5
    with np.errstate(invalid='ignore'):
        inside = (scaled[:, :2] >= -0.5).all(1)
        inside &= (scaled[:, 0] <= grid.width - 0.5) & (scaled[:, 1] <= grid.height - 0.5)
    if not inside.any():
        return None
    scaled[~inside] = np.nan, np.nan, 0
    return Person(scaled, scaled[:, 2] >= min_heat, score)


def _size(joints: Float) -> float:
    """Return the longer side of the box around the joints, cells."""
    known = joints[np.isfinite(joints).all(1)]
    return float(np.ptp(known, axis=0).max()) if len(known) else 0.0


def _distance(joints: Float, others: Float) -> float:
    """Return the mean distance of the joints that both have, cells."""
    apart = np.linalg.norm(joints[:, :2] - others[:, :2], axis=1)
    return float(np.nanmean(apart)) if np.isfinite(apart).any() else np.inf
