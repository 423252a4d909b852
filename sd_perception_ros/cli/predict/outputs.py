"""What is written for a frame: colour pictures, the values of each task, and their meaning."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
import io
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sd_perception_ros.drawing import draw_people, over_checkerboard
from sd_perception_ros.metric_depth.estimator import MetricDepth
from sd_perception_ros.safe_save import write_bytes
from sd_perception_ros.skeleton import WHOLE_BODY
from sd_perception_ros.tasks.task import Task
from sd_perception_ros.types import (
    DepthMap,
    DisparityMap,
    LabelMap,
    Matte,
    NormalMap,
    Poses,
    Prediction,
    UInt8,
)

_LEVELS = 65535
METRIC = 'depth/image_rect'


@dataclass(frozen=True)
class Values:
    """
    Values of a task, and how they are stored as an integer PNG: value = level * step + start.

    :ivar topic: name of the node's topic with the same content; the folder of the files.
    :ivar array: (H, W) or (H, W, 3).
    :ivar meaning: quantity, range and frame.
    :ivar step: value of a level.
    :ivar start: value of level 0.
    :ivar invalid: how unknown values are stored.
    """

    topic: str
    array: NDArray[Any]
    meaning: str
    unit: str = '1'
    step: float = 1 / _LEVELS
    start: float = 0.0
    invalid: str = 'none: every pixel has a value'

    def png(self) -> bytes:
        """Return the levels as a PNG of 8 or 16 bits; unknown and too large values are 0."""
        if self.array.dtype == np.uint8:
            return png(self.array)
        levels = np.round((self.array - np.float32(self.start)) / np.float32(self.step))
        fits = (levels >= 0) & (levels <= _LEVELS)  # false for NaN
        return png(np.where(fits, levels, 0).astype(np.uint16))

    def npz(self) -> bytes:
        """Return the values as they are, in the array 'values' of an NPZ file."""
        buffer = io.BytesIO()
        np.savez(buffer, values=self.array)
        return buffer.getvalue()

    def about(self, data_format: str) -> dict[str, Any]:
        """Describe the file of these values, for people and programs."""
        described: dict[str, Any] = {'meaning': self.meaning, 'unit': self.unit}
        if data_format == 'npz':
            return {**described, 'array': 'values', 'invalid': 'NaN, -Inf, +Inf (REP 117)'}
        bits = 8 if self.array.dtype == np.uint8 else 16
        formula = {'bits': bits, 'value': f'level * {self.step:.9g} + {self.start:g}'}
        return {**described, **formula, 'invalid': self.invalid}


def values_of(
    task: str, prediction: Prediction, class_names: tuple[str, ...] = ()
) -> list[Values]:
    """List the arrays of a prediction; none for people, whose joints are in the JSON file."""
    match prediction:
        case DepthMap(values):
            about = 'relative depth, 0 near .. 1 far, up to scale and shift: not metres'
            return [Values(f'{task}/relative', values, about)]
        case DisparityMap(values):
            about = 'relative 1 / depth, 0 far .. 1 near, up to scale and shift: not metres'
            return [Values(f'{task}/relative', values, about)]
        case NormalMap(values):
            about = 'unit normal in the optical frame: x right, y down, z forward'
            return [Values(f'{task}/image', values, about, step=2 / _LEVELS, start=-1.0)]
        case LabelMap(labels, confidence):
            names = ', '.join(f'{i} {name}' for i, name in enumerate(class_names))
            return [
                Values(f'{task}/labels', labels, f'class id: {names}', step=1.0),
                Values(f'{task}/confidence', confidence, 'confidence of the class, 0 .. 1'),
            ]
        case Matte(alpha):
            about = 'share of the pixel that is foreground, 0 .. 1'
            return [Values(f'{task}/alpha', alpha, about)]
    return []


def metric_values(metric: MetricDepth) -> list[Values]:
    """Return metric depth, if there is a trusted scale."""
    if metric.depth_m is None:
        return []
    about = 'depth along the optical axis (REP 118)'
    invalid = '0: unknown, out of range, or not below 65.536 m'
    return [Values(METRIC, metric.depth_m, about, 'm', step=0.001, invalid=invalid)]


def picture_of(task: Task, prediction: Prediction, rgb: UInt8) -> tuple[str, UInt8]:
    """Return a task's picture for people, (H, W, 3), and the name of its topic."""
    if isinstance(prediction, Poses):
        return f'{task.name}/overlay', draw_people(rgb, prediction)
    if isinstance(prediction, Matte):
        return f'{task.name}/color', over_checkerboard(rgb, prediction.alpha)
    return f'{task.name}/color', task.colorize(prediction)


def people_of(prediction: Prediction) -> list[dict[str, Any]]:
    """Return the people of a prediction for JSON: score, and u, v, score of each joint found."""
    if not isinstance(prediction, Poses):
        return []
    return [
        {
            'score': round(float(person.score), 4),
            'joints': {
                WHOLE_BODY[joint]: [round(float(number), 3) for number in person.joints[joint]]
                for joint in np.flatnonzero(np.isfinite(person.joints[:, 0]))
            },
        }
        for person in prediction.people
    ]


def png(pixels: NDArray[Any]) -> bytes:
    """Encode (H, W) or RGB (H, W, 3) pixels; OpenCV's default is the fastest for maps."""
    if pixels.ndim == 3:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    return cv2.imencode('.png', pixels)[1].tobytes()


class Folder:
    """
    The folder of results: <topic>/<frame>.png, sheet/<frame>.png and frames/<frame>.json.

    The JSON file of a frame is written last: it says that the frame is complete.

    :param data_format: 'png' or 'npz'.
    """

    def __init__(self, path: Path, data_format: str) -> None:
        self.path, self.data_format = path, data_format

    def is_done(self, name: str, source: str, kinds: Collection[str]) -> bool:
        """Return whether the results of some kinds of a frame of this source are complete."""
        try:
            about = json.loads(self._record(name).read_text(encoding='utf-8'))
            return about['source'] == source and set(kinds) <= set(about['written'])
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return False

    def finish(self, name: str, kinds: Collection[str], about: Mapping[str, Any]) -> None:
        """Write the JSON file that says that a frame or a video is complete."""
        record = {**about, 'written': list(kinds)}
        write_bytes(self._record(name), (json.dumps(record, indent=1) + '\n').encode())

    def write(
        self,
        name: str,
        kinds: Collection[str],
        about: Mapping[str, Any],
        pictures: Mapping[str, UInt8],
        values: list[Values],
        sheet: Callable[[], UInt8],
    ) -> None:
        """
        Write the results of a frame.

        :param kinds: of 'sheet', 'color' and 'data': what is written.
        :param pictures: {topic: picture}.
        :param sheet: makes the sheet, if it is wanted.
        :raises OSError: a file cannot be written; the others stay.
        """
        outputs: dict[str, Any] = {}
        if 'color' in kinds:
            for topic, picture in pictures.items():
                self._file(outputs, topic, name, 'png', png(picture))
        if 'data' in kinds:
            for one in values:
                data = one.png() if self.data_format == 'png' else one.npz()
                self._file(outputs, one.topic, name, self.data_format, data)
                outputs[one.topic] |= one.about(self.data_format)
        if 'sheet' in kinds:
            self._file(outputs, 'sheet', name, 'png', png(sheet()))
        self.finish(name, kinds, {**about, 'outputs': outputs})

    def _record(self, name: str) -> Path:
        return self.path / 'frames' / f'{name}.json'

    def _file(
        self, outputs: dict[str, Any], topic: str, name: str, suffix: str, data: bytes
    ) -> None:
        file = self.path / topic / f'{name}.{suffix}'
        write_bytes(file, data)
        outputs[topic] = {'file': str(file.relative_to(self.path))}


def class_names_of(tasks: Mapping[str, Task], name: str) -> tuple[str, ...]:
    """Return the classes of a task in the order of their ids; empty if it has none."""
    return tuple(getattr(tasks[name], 'class_names', ()))


def all_values(
    tasks: Mapping[str, Task], predictions: Mapping[str, Prediction], metric: MetricDepth
) -> Iterator[Values]:
    """Yield the arrays of all tasks of a frame, and metric depth."""
    for name, prediction in predictions.items():
        yield from values_of(name, prediction, class_names_of(tasks, name))
    yield from metric_values(metric)
