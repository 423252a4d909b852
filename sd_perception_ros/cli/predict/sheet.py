"""Sheets: a picture and its tasks side by side, with legends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
import math

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sd_perception_ros.cli.contact_sheet import (
    BACKGROUND,
    GAP_PX,
    INK,
    LABEL_PX,
    MARGIN_PX,
    side_by_side,
    stack,
)
from sd_perception_ros.drawing import SIDE_COLORS
from sd_perception_ros.metric_depth.estimator import MetricDepth
from sd_perception_ros.tasks.affine import paint
from sd_perception_ros.tasks.task import Task
from sd_perception_ros.types import (
    DepthMap,
    DisparityMap,
    Float,
    LabelMap,
    Matte,
    NormalMap,
    Poses,
    Prediction,
    UInt8,
)

SHEET_PX, FILM_PX = 1920, 1280
_LEAST_SHARE = 0.005  # of the pixels: rarer classes are not in the legend
_MAX_CLASSES = 6
_WITHHELD = 64  # grey where there is no metric depth
# Ends of the colours of depth: near and far.
_NEAR, _FAR = (180, 20, 10), (54, 140, 250)

Legend = tuple[tuple[str, tuple[int, int, int]], ...]  # texts with colours, after the title


def sheet(
    rgb: UInt8,
    tasks: Mapping[str, Task],
    predictions: Mapping[str, Prediction],
    pictures: Mapping[str, UInt8],
    metric: MetricDepth,
    width_px: int = SHEET_PX,
) -> UInt8:
    """
    Arrange a picture and its tasks in rows.

    :param pictures: {topic: picture of a task}, in the order of `predictions`.
    :param width_px: width of the sheet, less if the picture is small.
    :returns: (h, w, 3) with even h and w, as codecs need them; the size depends only on the size
        of the picture and the number of tiles.
    """
    tiles: list[tuple[str, Legend, UInt8]] = [('picture', (), rgb)]
    for (name, prediction), picture in zip(predictions.items(), pictures.values(), strict=True):
        tiles.append((name, legend(tasks[name], prediction), picture))
    if metric.depth_m is not None:
        tiles.append(metric_tile(metric.depth_m))
    elif metric.problem:  # a tile, too: all frames of a video have one size
        tiles.append((f'no metric depth: {metric.problem}', (), np.full_like(rgb, _WITHHELD)))
    columns = columns_of(len(tiles))
    height, width = rgb.shape[:2]
    cell_w = max(min((width_px - (columns - 1) * GAP_PX) // columns, width), 2)
    # Portraits: no cell is higher than it would be wide.
    cell_w = min(cell_w, max(round(cell_w * width / height), 2)) if height > width else cell_w
    cell_h = max(round(cell_w * height / width), 2)
    cells = [
        np.vstack([caption(title, parts, cell_w), _resized(picture, cell_w, cell_h)])
        for title, parts, picture in tiles
    ]
    rows = range(0, len(cells), columns)
    made = stack([side_by_side(cells[start : start + columns]) for start in rows])
    return cv2.copyMakeBorder(
        made, 0, len(made) % 2, 0, made.shape[1] % 2, cv2.BORDER_CONSTANT, value=BACKGROUND
    ).astype(np.uint8, copy=False)


def columns_of(count: int) -> int:
    """Return the number of columns for some tiles: about a square, with few empty cells."""
    side = math.ceil(math.sqrt(count))
    return min(side, side + 1, key=lambda columns: -count % columns)


def legend(task: Task, prediction: Prediction) -> Legend:
    """Return texts with colours that explain the picture of a task."""
    match prediction:
        case DepthMap() | DisparityMap():
            return (('near', _NEAR), ('far', _FAR))
        case NormalMap():
            return (
                ('right', (255, 128, 128)),
                ('up', (128, 255, 128)),
                ('front', (128, 128, 255)),
            )
        case Poses():
            return tuple((side, SIDE_COLORS[side]) for side in ('left', 'right'))
        case LabelMap(labels):
            return _classes(task, labels)
        case Matte():
            return ()
    return ()


def metric_tile(depth_m: Float) -> tuple[str, Legend, UInt8]:
    """Return title, legend and picture of metric depth; black where it is not a distance."""
    known = np.isfinite(depth_m)
    near, far = np.percentile(depth_m[known], (1, 99)) if known.any() else (0.0, 0.0)
    share = (np.where(known, depth_m, far) - near) / max(far - near, 1e-6)
    picture = paint((1 - np.clip(share, 0, 1)).astype(np.float32))
    picture[~known] = 0
    parts = ((f'{near:.2f} m', _NEAR), (f'{far:.2f} m', _FAR))
    return 'metric depth', parts, picture


def _classes(task: Task, labels: UInt8) -> Legend:
    """Return the most frequent classes of a picture."""
    names: Sequence[str] = getattr(task, 'class_names', ())
    counts = np.bincount(labels.ravel(), minlength=len(names))[: len(names)]
    ids = [i for i in np.argsort(-counts)[:_MAX_CLASSES] if counts[i] > _LEAST_SHARE * labels.size]
    row = np.asarray(ids, np.uint8)[None]
    if not ids:
        return ()
    colors = task.colorize(LabelMap(row, np.ones(row.shape, np.float32)))[0]
    return tuple(
        (names[i], (int(r), int(g), int(b))) for i, (r, g, b) in zip(ids, colors, strict=True)
    )


@lru_cache(maxsize=256)
def caption(title: str, parts: Legend, width: int) -> UInt8:
    """Return a strip with a title and its legend; what does not fit is left out."""
    image = Image.new('RGB', (width, LABEL_PX), BACKGROUND)
    font = ImageFont.load_default(size=round(LABEL_PX * 0.56))
    draw = ImageDraw.Draw(image)
    middle, square = LABEL_PX // 2, LABEL_PX // 2
    draw.text((MARGIN_PX, middle), title, INK, font, anchor='lm')
    x = MARGIN_PX + math.ceil(font.getlength(title)) + 2 * MARGIN_PX
    for text, color in parts:
        end = x + square + 3 + math.ceil(font.getlength(text))
        if end > width - MARGIN_PX:
            break
        box = (x, middle - square // 2, x + square - 1, middle + square // 2 - 1)
        draw.rectangle(box, fill=color)
        draw.text((x + square + 3, middle), text, INK, font, anchor='lm')
        x = end + 2 * MARGIN_PX
    return np.asarray(image, np.uint8)


def _resized(picture: UInt8, width: int, height: int) -> UInt8:
    if picture.shape[:2] == (height, width):
        return picture
    smaller = width < picture.shape[1]
    method = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(picture, (width, height), interpolation=method), np.uint8)
