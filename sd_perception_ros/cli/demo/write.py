"""The files of the demo: an image of each input, an overview, a film and a table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from sd_perception_ros.cli.contact_sheet import grid, Tile, write_png
from sd_perception_ros.cli.demo.pictures import (
    mosaic,
    overview,
    tiles_of,
    write_jpeg,
    write_video,
    write_webp,
)
from sd_perception_ros.cli.demo.recording import Recording
from sd_perception_ros.cli.demo.table import error_table, errors, topic_table
from sd_perception_ros.types import UInt8

JPEG_BYTES, WEBP_BYTES = 300_000, 2_500_000
WEBP_RATE_HZ = 5.0  # minimum rate of the animation, for machines that play the film slower
OVERVIEW_ROOMS = 2
OVERVIEW_PHOTOS = 5
FOOTNOTES = """\
Latency: from the camera's stamp until the recorder, in another process, has deserialized the
message. A frame is not answered if a newer one arrived before its turn. Metres of depth/points
are a demo value, {shift_m:g} m + {scale_m:g} m x relative depth, not a measurement."""
ERROR_NOTE = """\
Depth is compared after a least-squares fit of scale and shift to each image (affine-invariant).
under_11.25: fraction of pixels with an angular error of normals below 11.25 degrees. Baseline:
constant depth, normals along the optical axis, class wall, no foreground, no people."""


def write_pictures(
    recordings: Sequence[Recording], folder: Path, step: Callable[[], object]
) -> None:
    """
    Write images, film and overview into a folder.

    :param step: called after each frame.
    """
    rooms: list[list[Tile]] = []
    photos: list[list[Tile]] = []
    for recording in recordings:
        part, shown = recording.part, list(recording.frames)
        if part.film:
            small: list[UInt8] = []
            rows = _rows(recording, folder, step, small)
            write_video(folder / part.title, rows, part.rate_hz)
            if small:
                write_webp(folder / 'overview.webp', small, WEBP_RATE_HZ, WEBP_BYTES)
            picked = shown[len(shown) // 4 :: max(len(shown) // OVERVIEW_ROOMS, 1)]
            rooms += [row for i in picked[:OVERVIEW_ROOMS] for row in tiles_of(recording, i)]
        else:
            for _ in _rows(recording, folder, step, []):
                pass
            photos += [row for i in shown[:OVERVIEW_PHOTOS] for row in tiles_of(recording, i)]
    if rooms or photos:
        sheet = overview(rooms, photos)
        write_png(folder / 'overview.png', sheet)
        write_jpeg(folder / 'overview.jpg', sheet, JPEG_BYTES)


def write_table(
    recordings: Sequence[Recording], folder: Path, about: str, scale_m: float, shift_m: float
) -> str:
    """
    Write table.txt and return its text.

    :param about: the first line: checkpoint and machine.
    :param scale_m: scale in the parameters of the node, for the footnote.
    :param shift_m: shift in the parameters.
    """
    blocks = [about, *(topic_table(recording) for recording in recordings)]
    blocks.append(FOOTNOTES.format(scale_m=scale_m, shift_m=shift_m))
    for recording in recordings:
        if figures := errors(recording):
            blocks += [error_table(figures, len(recording.frames)), ERROR_NOTE]
    text = '\n\n'.join(blocks)
    (folder / 'table.txt').write_text(text + '\n', encoding='utf-8')
    return text


def pictured(answered: Sequence[int], every: int) -> list[int]:
    """Choose every n-th frame, or the next one with all outputs."""
    wanted = range(0, max(answered, default=-1) + 1, every)
    return sorted({min(index for index in answered if index >= start) for start in wanted})


def _rows(
    recording: Recording, folder: Path, step: Callable[[], object], small: list[UInt8]
) -> Iterator[UInt8]:
    """
    Draw the frames in order, and write some of them.

    :param small: list to which a small image of each frame is added, for the moving overview.
    """
    part = recording.part
    written = pictured(list(recording.frames), part.picture_every)
    for index in recording.frames:
        tiles = tiles_of(recording, index)
        row = grid(tiles)
        if part.film:
            small.append(mosaic(tiles[0]))
        if index in written:
            write_png(folder / f'{part.names[index]}.png', row)
        step()
        yield row
