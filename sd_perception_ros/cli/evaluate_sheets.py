"""Sheets of the pictures that a checkpoint answers worst: picture, truth, answer and score."""

from __future__ import annotations

import cv2
import numpy as np

from sd_perception_ros.cli.contact_sheet import side_by_side, stack, strip
from sd_perception_ros.tasks.task import Task
from sd_perception_ros.types import Prediction, Sample, UInt8

LONG_SIDE_PX = 320  # of a picture on a sheet: three of them fit on a screen


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
    line = side_by_side([np.asarray(tile, np.uint8) for tile in tiles])
    return stack([strip(label, line.shape[1]), line])


def _over(rgb: UInt8, drawn: UInt8) -> UInt8:
    """Put what is not black over a darkened picture of the same shape."""
    ink = drawn.any(-1, keepdims=True)
    return np.where(ink, drawn, rgb // 2).astype(np.uint8)
