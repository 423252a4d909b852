"""Images and a film of the recorded outputs, for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
from PIL import Image

from sd_perception_ros.cli.contact_sheet import (
    BACKGROUND,
    cropped_to,
    GAP_PX,
    labelled,
    side_by_side,
    stack,
    strip,
    Tile,
)
from sd_perception_ros.cli.demo.birdseye import birdseye, LABEL, NEEDED, TRUE_LABEL
from sd_perception_ros.cli.demo.recording import Recording
from sd_perception_ros.data.formats.rooms import RoomsDataset
from sd_perception_ros.drawing import draw_people, true_poses
from sd_perception_ros.ros.replay.recorder import INPUT, PICTURE_TOPICS
from sd_perception_ros.tasks import make_task
from sd_perception_ros.types import Sample, UInt8

UNKNOWN = 96  # grey for unknown ground truth
CELL_PX = (196, 147)  # width and height of an image in the overview: nine make 1796 px
HEADING_PX = 34
MOSAIC_PX = (208, 156)  # width and height of an image in the moving overview
MOSAIC_COLUMNS = 4  # 844 px in all: the width of a README on GitHub
NOT_IN_MOSAIC = ('foreground',)  # in the film it hardly differs from the matte
# Titles of tasks in images.
TITLES = {'depth': 'depth (red near, blue far)', 'matting': 'matting (people)'}


def tiles_of(recording: Recording, index: int) -> list[list[Tile]]:
    """Return the rows of a frame: camera and outputs, and the ground truth if it is known."""
    frame = recording.frames[index]
    sample = _truth(recording, index)
    picture = cast('UInt8', frame[INPUT])
    found, true = [('camera', picture)], [('ground truth', np.full_like(picture, BACKGROUND))]
    for task, topic in PICTURE_TOPICS.items():
        if topic not in recording.topics:
            continue
        found.append((TITLES.get(task, task), _in_color(cast('UInt8', frame[topic]))))
        if sample is not None:
            known = make_task(task).truth in sample
            unknown = np.full_like(picture, UNKNOWN)
            true.append(
                (f'true {task}', true_picture(task, sample, picture) if known else unknown)
            )
    folder = recording.part.truth
    if folder is not None and sample is not None and set(NEEDED) <= set(recording.topics):
        camera = folder / f'{RoomsDataset(folder).key(index)}.camera.json'
        above, truth_rows = birdseye(frame, sample['depth_m'][0, 0].numpy(), camera)
        found.append((LABEL, above))
        true.append((TRUE_LABEL, truth_rows))
    return [found] if sample is None else [found, true]


def true_picture(task_name: str, sample: Sample, picture: UInt8) -> UInt8:
    """
    Draw the ground truth of a sample like a prediction; unknown is grey.

    :param picture: (H, W, 3) camera image, the background of overlays.
    """
    task = make_task(task_name)
    if not task.dense:
        joints = sample['joints'][0].numpy()
        return draw_people(picture, true_poses(joints, *picture.shape[:2]))
    target, valid = task.target(sample)
    prediction = task.decode(target[0])
    return np.where(valid[0, 0, :, :, None].numpy(), task.colorize(prediction), np.uint8(UNKNOWN))


def _in_color(picture: UInt8) -> UInt8:
    return picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, axis=2)


def overview(rooms: Sequence[Sequence[Tile]], photos: Sequence[Sequence[Tile]]) -> UInt8:
    """
    Show frames of both kinds on one sheet: a row with the camera image and its outputs.

    :param rooms: rows of rendered frames, the ground truth below the outputs.
    :param photos: a row for each photograph.
    """
    columns = max(len(row) for row in [*rooms, *photos])
    width = columns * CELL_PX[0] + (columns - 1) * GAP_PX
    rows: list[UInt8] = []
    titles = ('Rendered rooms, with ground truth', 'Photographs, without ground truth')
    for title, part in zip(titles, (rooms, photos), strict=True):
        if part:
            rows += [strip(title, width, HEADING_PX, bold=True)]
            rows += [side_by_side([_cell(tile) for tile in row]) for row in part]
    return stack(rows)


def mosaic(tiles: Sequence[Tile]) -> UInt8:
    """
    Arrange the camera image and its outputs in rows of `MOSAIC_COLUMNS`, small.

    :returns: (h, w, 3); the same size for every frame with the same outputs.
    """
    cells = [_cell(tile, MOSAIC_PX) for tile in tiles if tile[0] not in NOT_IN_MOSAIC]
    empty = np.full_like(cells[0], BACKGROUND)
    cells += [empty] * (-len(cells) % MOSAIC_COLUMNS)
    rows = range(0, len(cells), MOSAIC_COLUMNS)
    return stack([side_by_side(cells[start : start + MOSAIC_COLUMNS]) for start in rows])


def write_jpeg(path: Path, rgb: UInt8, most_bytes: int) -> None:
    """Write an image at the best quality (at least 40) that keeps the file small."""
    for quality in range(92, 39, -4):
        Image.fromarray(rgb).save(path, quality=quality, optimize=True)
        if path.stat().st_size <= most_bytes:
            return


def write_webp(path: Path, pictures: Sequence[UInt8], rate_hz: float, most_bytes: int) -> None:
    """Write images of one size as an animated WebP, not above `most_bytes` if possible."""
    first, *others = [Image.fromarray(rgb) for rgb in pictures]
    for quality in range(80, 29, -10):
        first.save(
            path,
            save_all=True,
            append_images=others,
            duration=round(1000 / rate_hz),
            loop=0,
            quality=quality,
        )
        if path.stat().st_size <= most_bytes:
            return


def write_video(stem: Path, rows: Iterable[UInt8], rate_hz: float) -> Path | None:
    """
    Write images of one size as an MP4 film, or as AVI if OpenCV cannot write MP4.

    :param stem: path without the suffix.
    :param rows: always read to the end, even if nothing can be written.
    :returns: the file; None if OpenCV can write neither, or there is no image.
    """
    writer: Any = None
    path: Path | None = None
    for number, rgb in enumerate(rows):
        # Codecs need even sizes, OpenCV blue first.
        frame = np.ascontiguousarray(rgb[: len(rgb) // 2 * 2, : rgb.shape[1] // 2 * 2, ::-1])
        if number == 0:
            writer, path = _open_video(stem, rate_hz, (frame.shape[1], frame.shape[0]))
        if writer is not None:
            writer.write(frame)
    if writer is not None:
        writer.release()
    return path


def _open_video(stem: Path, rate_hz: float, size: tuple[int, int]) -> tuple[Any, Path | None]:
    for suffix, code in (('.mp4', 'mp4v'), ('.avi', 'MJPG')):
        path = stem.with_suffix(suffix)
        fourcc = cv2.VideoWriter.fourcc(*code)
        writer = cv2.VideoWriter(str(path), fourcc, rate_hz, size)
        if writer.isOpened():
            return writer, path
        path.unlink(missing_ok=True)
    return None, None


def _truth(recording: Recording, index: int) -> Sample | None:
    folder = recording.part.truth
    return None if folder is None else RoomsDataset(folder)[index]


def _cell(tile: Tile, size: tuple[int, int] = CELL_PX) -> UInt8:
    label, picture = tile
    return labelled(label, cropped_to(picture, size))
