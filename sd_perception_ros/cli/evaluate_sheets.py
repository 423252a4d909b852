"""Sheets of the pictures that a checkpoint answers worst: picture, truth, answer and score."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from sd_perception_ros.tasks.task import Task
from sd_perception_ros.types import Prediction, Sample

UInt8 = NDArray[np.uint8]

LONG_SIDE_PX = 320  # of a picture on a sheet: three of them fit on a screen
LABEL_PX = 20
GAP_PX = 4  # between pictures
INK, PAPER = (235, 235, 235), (24, 24, 28)


def row(task: Task, rgb: UInt8, sample: Sample, prediction: Prediction, label: str) -> UInt8:
    """
    Return one line of a sheet, (h, w, 3) uint8 RGB.

    :param rgb: (H, W, 3) the picture.
    :param sample: its truth.
    :param label: what is written above, such as its name and the score.
    """
    target, valid = task.target(sample)
    truth = task.colorize(task.decode(target[0]))
    answer = task.colorize(prediction)
    if task.dense:
        truth = np.where(valid[0, 0, :, :, None].numpy(), truth, 0).astype(np.uint8)
    else:  # drawn on black: shown on the picture
        truth, answer = (_over(rgb, drawn) for drawn in (truth, answer))
    scale = LONG_SIDE_PX / max(rgb.shape[:2])
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    tiles = [
        cv2.resize(tile, None, fx=scale, fy=scale, interpolation=method)
        for tile in (rgb, truth, answer)
    ]
    gap = np.full((len(tiles[0]), GAP_PX, 3), PAPER, np.uint8)
    line = np.hstack([tiles[0], gap, tiles[1], gap, tiles[2]])
    head = np.full((LABEL_PX, line.shape[1], 3), PAPER, np.uint8)
    cv2.putText(head, label, (4, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.42, INK, 1, cv2.LINE_AA)
    return np.vstack([head, line])


def sheet(rows: Sequence[UInt8]) -> UInt8:
    """Put lines of any width below one another."""
    width = max(line.shape[1] for line in rows)
    padded = [np.pad(line, ((0, 0), (0, width - line.shape[1]), (0, 0))) for line in rows]
    return np.vstack(padded)


def _over(rgb: UInt8, drawn: UInt8) -> UInt8:
    """Put what is not black over a darkened picture of the same shape."""
    ink = drawn.any(-1, keepdims=True)
    return np.where(ink, drawn, rgb // 2).astype(np.uint8)
