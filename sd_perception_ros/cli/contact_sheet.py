"""Contact sheets: images in rows, each below its label."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sd_perception_ros.types import UInt8

Tile = tuple[str, UInt8]  # label, and (H, W, 3) uint8 RGB

LABEL_PX = 24
GAP_PX = 4
MARGIN_PX = 6  # margin on both sides of a text
BACKGROUND = (24, 24, 28)
INK = (235, 235, 235)


def grid(rows: Sequence[Sequence[Tile]]) -> UInt8:
    """Return labelled images in rows; all images of a row have the same height."""
    return stack([side_by_side([labelled(*tile) for tile in row]) for row in rows])


def labelled(label: str, picture: UInt8) -> UInt8:
    """Return an image below a strip of `LABEL_PX` rows with a text."""
    return np.vstack([strip(label, picture.shape[1]), picture])


def side_by_side(pictures: Sequence[UInt8]) -> UInt8:
    """Return images of the same height in a row, `GAP_PX` apart."""
    gap = np.full((len(pictures[0]), GAP_PX, 3), BACKGROUND, np.uint8)
    joined = [part for picture in pictures for part in (gap, picture)]
    return np.hstack(joined[1:])


def stack(rows: Sequence[UInt8]) -> UInt8:
    """Stack rows of any widths; the result is as wide as the widest."""
    width = max(row.shape[1] for row in rows)
    rests = [np.full((len(row), width - row.shape[1], 3), BACKGROUND, np.uint8) for row in rows]
    return np.vstack([np.hstack(pair) for pair in zip(rows, rests, strict=True)])


def cropped_to(picture: UInt8, size: tuple[int, int]) -> UInt8:
    """
    Crop the centre of an image to a size, so that all cells of a sheet are equal.

    :param size: width and height.
    """
    width, height = size
    scale = max(width / picture.shape[1], height / picture.shape[0])
    cut_w, cut_h = round(width / scale), round(height / scale)
    left, top = (picture.shape[1] - cut_w) // 2, (picture.shape[0] - cut_h) // 2
    middle = picture[top : top + cut_h, left : left + cut_w]
    return np.asarray(cv2.resize(middle, size, interpolation=cv2.INTER_AREA), np.uint8)


def strip(text: str, width: int, height: int = LABEL_PX, bold: bool = False) -> UInt8:
    """Return a strip with a text; if it is too long, its start is left out."""
    image = Image.new('RGB', (width, height), BACKGROUND)
    font = ImageFont.load_default(size=round(height * (0.6 if bold else 0.56)))
    shown = text
    while len(shown) > 2 and font.getlength(shown) > width - 2 * MARGIN_PX:
        shown = f'..{shown.removeprefix("..")[1:]}'
    place = (MARGIN_PX, height // 2)
    draw = ImageDraw.Draw(image)
    draw.text(place, shown, INK, font, anchor='lm', stroke_width=0.4 if bold else 0)
    return np.asarray(image, np.uint8)


def write_png(path: Path, rgb: UInt8) -> None:
    """
    Write an image.

    :raises OSError: the file cannot be written.
    :raises ValueError: the suffix is not that of an image format.
    """
    Image.fromarray(rgb).save(path)
