"""Decode heat maps to people: peaks, their joints, and removal of duplicates."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from sd_perception_ros.types import Float, Grid, Person

# A joint is searched around the end of its offset, within this fraction of the size of the person.
_REACH = 0.2
_LEAST_REACH_CELLS = 2.5
# Minimum distance of two centres is half of this: a broad peak may have several maxima.
_APART_CELLS = 5
# People whose joints are closer than this fraction of their size are duplicates.
_SAME = 0.15
Candidate = tuple[float, float, float]  # x and y in cells, heat


def centres(heat: Float, min_heat: float, count: int) -> list[Candidate]:
    """
    Return local maxima, in order of decreasing heat.

    :param heat: (h, w) float32.
    :param count: maximum number.
    """
    highest = cv2.dilate(heat, np.ones((_APART_CELLS, _APART_CELLS), np.uint8))
    rows, columns = np.nonzero((heat >= highest) & (heat >= min_heat))
    order = np.argsort(-heat[rows, columns], kind='stable')[:count]
    return [peak_at(heat, int(rows[i]), int(columns[i])) for i in order]


def peak_at(heat: Float, row: int, column: int) -> Candidate:
    """
    Return the maximum of a peak between cells: of the parabola through three logarithms.

    Exact for Gaussians, of which targets consist.
    """
    position = []
    for line, index in ((heat[row], column), (heat[:, column], row)):
        shift = 0.0
        if 0 < index < len(line) - 1:
            before, here, after = np.log(np.maximum(line[index - 1 : index + 2], 1e-6))
            bend = before - 2 * here + after
            shift = float(np.clip(0.5 * (before - after) / bend, -0.5, 0.5)) if bend < 0 else 0.0
        position.append(index + shift)
    return position[0], position[1], float(np.clip(heat[row, column], 0, 1))


def find_people(
    heat: Float, offsets: Float, peaks: list[Candidate], min_heat: float, grid: Grid
) -> list[Person]:
    """
    Return a person for each centre, without duplicates.

    :param heat: (17, h, w) float32, 0..1.
    :param offsets: (17, 2, h, w) cells, from each cell to the joints of its person; NaN for
        unknown joints.
    :param peaks: centres, in order of decreasing heat.
    :param grid: position of the cells on the image; people outside of it are left out.
    """
    people: list[Person] = []
    accepted: list[NDArray[np.float32]] = []
    for x, y, score in peaks:
        row, column = round(y), round(x)
        start = offsets[:, :, row, column] + np.array([column, row], np.float32)
        size = _size(start)
        joints = _joints(heat, start, size, min_heat)
        if any(_distance(joints, other) < _SAME * size for other in accepted):
            continue
        accepted.append(joints)
        person = _on_image(joints, score, min_heat, grid)
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
        # If the joint is clearly outside, heat at the edge belongs to another person.
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


def _on_image(
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
    finite = joints[np.isfinite(joints).all(1)]
    return float(np.ptp(finite, axis=0).max()) if len(finite) else 0.0


def _distance(joints: Float, others: Float) -> float:
    """Return the mean distance of the joints that are known in both, cells."""
    apart = np.linalg.norm(joints[:, :2] - others[:, :2], axis=1)
    return float(np.nanmean(apart)) if np.isfinite(apart).any() else np.inf
