"""Contact sheets of the worst predictions: image, truth, prediction and score."""

from __future__ import annotations

import cv2
import numpy as np

from sd_perception_ros.cli.contact_sheet import side_by_side, stack, strip
from sd_perception_ros.tasks.task import Task
from sd_perception_ros.types import Prediction, Sample, UInt8

LONG_SIDE_PX = 320  # width of an image on a sheet: three fit on a screen


def row(task: Task, rgb: UInt8, sample: Sample, prediction: Prediction, label: str) -> UInt8:
    """
    Return one row of a contact sheet, (h, w, 3) uint8 RGB.

    :param rgb: (H, W, 3) the image.
    :param sample: its ground truth.
    :param label: title, such as name and score.
    """
    target, valid = task.target(sample)
    truth = task.colorize(task.decode(target[0]))
    predicted = task.colorize(prediction)
    if task.dense:
        truth = np.where(valid[0, 0, :, :, None].numpy(), truth, 0).astype(np.uint8)
    else:  # drawn on black: overlay it on the image
        truth, predicted = (_over(rgb, drawn) for drawn in (truth, predicted))
    scale = LONG_SIDE_PX / max(rgb.shape[:2])
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    tiles = [
        cv2.resize(tile, None, fx=scale, fy=scale, interpolation=method)
        for tile in (rgb, truth, predicted)
    ]
    line = side_by_side([np.asarray(tile, np.uint8) for tile in tiles])
    return stack([strip(label, line.shape[1]), line])


def _over(rgb: UInt8, drawn: UInt8) -> UInt8:
    """Draw non-black pixels over a darkened image of the same shape."""
    ink = drawn.any(-1, keepdims=True)
    return np.where(ink, drawn, rgb // 2).astype(np.uint8)
