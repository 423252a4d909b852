"""The demo's table: topics, rates and latencies, and the error against ground truth."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sd_perception_ros.cli.demo.recording import Recording
from sd_perception_ros.cli.tables import aligned
from sd_perception_ros.data.formats.rooms import RoomsDataset
from sd_perception_ros.evaluation.evaluate import add, Measured, summarize
from sd_perception_ros.ros.replay.recorder import INPUT, RecordedMessage, VALUE_TOPICS
from sd_perception_ros.skeleton import JOINTS
from sd_perception_ros.tasks import make_task
from sd_perception_ros.tasks.segmentation import ROOM_CLASSES
from sd_perception_ros.tasks.task import Task
from sd_perception_ros.types import (
    DepthMap,
    DisparityMap,
    LabelMap,
    Matte,
    NormalMap,
    Person,
    Poses,
    Prediction,
    Sample,
)

Figures = dict[str, dict[str, float]]
Values = NDArray[Any]


def poses_of(joints: Values, height: int, width: int) -> Poses:
    """Convert the points of human_pose/keypoints to people."""
    people = []
    for number in np.unique(joints['person']):
        own = joints[joints['person'] == number]
        found = np.full((len(JOINTS), 3), np.nan, np.float32)
        found[:, 2] = 0
        found[own['joint']] = np.stack([own['u'], own['v'], own['score']], 1)
        received = np.isin(np.arange(len(JOINTS)), own['joint'])
        people.append(Person(found, received, float(own['score'].mean())))
    return Poses(tuple(people), height, width)


# Task: function of (values of its topic, height, width) that returns the prediction.
PREDICTIONS: Mapping[str, Callable[[Values, int, int], Prediction]] = {
    'depth': lambda values, *_: DepthMap(values),
    'disparity': lambda values, *_: DisparityMap(values),
    'normals': lambda values, *_: NormalMap(values),
    'segmentation': lambda values, *_: LabelMap(values, np.ones(values.shape, np.float32)),
    'foreground': lambda values, *_: Matte(values / np.float32(255)),
    'matting': lambda values, *_: Matte(values / np.float32(255)),
    'human_pose': poses_of,
}
WALL = ROOM_CLASSES.index('wall')
HEADER = ('topic', 'type', 'size', 'messages', 'rate Hz', 'median latency ms', 'p95 latency ms')


def topic_table(recording: Recording) -> str:
    """Return a line for each topic: messages, rate, and latency from the camera's stamp."""
    part = recording.part
    sent, answered = len(part.names), recording.answered
    received = sum(arrival.topic == INPUT for arrival in recording.arrivals)
    rows = [_topic_row(topic, recording.arrivals) for topic in (INPUT, *recording.topics)]
    title = (
        f'{part.title}: {sent} frames played at {part.rate_hz:g} Hz, {received} recorded, '
        f'{answered} answered on every topic, {max(sent - answered, 0)} not'
    )
    return '\n'.join([title, *aligned([HEADER, *rows])])


def error_table(figures: Mapping[str, Figures], frames: int) -> str:
    """
    Return the errors of several predictors, task by task.

    :param figures: predictor to task to figures, as `errors` returns them.
    :param frames: number of evaluated frames.
    """
    lines = [f'error against ground truth, {frames} frames']
    for task, names in next(iter(figures.values())).items():
        rows = [
            (predictor, *(f'{by_task[task][name]:.3f}' for name in names))
            for predictor, by_task in figures.items()
        ]
        lines += aligned([(task, *names), *rows])
    return '\n'.join(lines)


def errors(recording: Recording) -> dict[str, Figures]:
    """
    Evaluate published values and a constant baseline on frames with ground truth.

    The baseline is a constant depth, normals along the optical axis, class wall everywhere, and
    no foreground and no people.

    :returns: {'published' or 'baseline': {task: figures}}; empty without truth or frames.
    """
    if recording.part.truth is None or not recording.frames:
        return {}
    dataset = RoomsDataset(recording.part.truth)
    tasks = {
        name: make_task(name) for name, topic in VALUE_TOPICS.items() if topic in recording.topics
    }
    first = dataset[next(iter(recording.frames))]
    constant = constant_baseline(*first['image'].shape[-2:])
    tasks = {
        name: task
        for name, task in tasks.items()
        if task.truth in first and _measurable(task, constant[name], first)
    }
    published: Measured = {}
    baseline_measured: Measured = {}
    for index, frame in recording.frames.items():
        sample = dataset[index]
        height, width = sample['image'].shape[-2:]
        values = {
            name: PREDICTIONS[name](frame[VALUE_TOPICS[name]], height, width) for name in tasks
        }
        add(published, tasks, values, sample)
        add(baseline_measured, tasks, {name: constant[name] for name in tasks}, sample)
    return {
        'published': summarize(published, tasks),
        'baseline': summarize(baseline_measured, tasks),
    }


def constant_baseline(height: int, width: int) -> dict[str, Prediction]:
    """Return the constant baseline for (height, width) images."""
    nothing = np.zeros((height, width), np.float32)
    facing = np.zeros((height, width, 3), np.float32)
    facing[..., 2] = -1
    return {
        'depth': DepthMap(nothing),
        'disparity': DisparityMap(nothing),
        'normals': NormalMap(facing),
        'segmentation': LabelMap(np.full((height, width), WALL, np.uint8), nothing),
        'foreground': Matte(nothing),
        'matting': Matte(nothing),
        'human_pose': Poses((), height, width),
    }


def _measurable(task: Task, prediction: Prediction, sample: Sample) -> bool:
    """Return whether the package for the metrics of a task is installed."""
    try:
        task.measure(prediction, sample)
    except ImportError:
        return False
    return True


def rate_hz(arrivals: Sequence[RecordedMessage]) -> float:
    """Return messages per second between the first and the last; NaN for fewer than two."""
    if len(arrivals) < 2:
        return float('nan')
    span_s = float(arrivals[-1].arrival_ns - arrivals[0].arrival_ns) / 1e9
    return (len(arrivals) - 1) / span_s


def _topic_row(topic: str, arrivals: Iterable[RecordedMessage]) -> tuple[str, ...]:
    messages = [arrival for arrival in arrivals if arrival.topic == topic]
    if not messages:
        return topic, '-', '-', '0', '-', '-', '-'
    sizes = {f'{a.size[0]} x {a.size[1]}' for a in messages}
    latencies_ms = [arrival.latency_ms for arrival in messages]
    return (
        topic,
        messages[0].kind,
        sizes.pop() if len(sizes) == 1 else 'various',
        str(len(messages)),
        f'{rate_hz(messages):.2f}',
        f'{np.median(latencies_ms):.1f}',
        f'{np.percentile(latencies_ms, 95):.1f}',
    )
