"""Run `predict`: read, predict and write, each at the same time as the others."""

from __future__ import annotations

import argparse
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
import itertools
import json
from pathlib import Path
import shutil
import sys
from threading import Lock
import time
from typing import Any, TYPE_CHECKING, TypeVar

from tqdm import tqdm

from sd_perception_ros.cli.predict.bags import BagCamera, cameras_of
from sd_perception_ros.cli.predict.film import Film, FILM_NOTE, SUFFIX
from sd_perception_ros.cli.predict.inputs import (
    find_inputs,
    Frame,
    Inputs,
    IsDone,
    Pictures,
    Video,
    without_newlines,
)
from sd_perception_ros.cli.predict.main import BAG, PICTURE_KINDS, VIDEO
from sd_perception_ros.cli.predict.outputs import (
    all_values,
    class_names_of,
    Folder,
    people_of,
    picture_of,
)
from sd_perception_ros.cli.predict.sheet import FILM_PX, sheet, SHEET_PX
from sd_perception_ros.config import EngineConfig
from sd_perception_ros.data.formats.rosbag import (
    DamagedRecordingError,
    open_recording,
    recording_parts,
)
from sd_perception_ros.engine import Engine
from sd_perception_ros.geometry.pinhole import camera_from_fov
from sd_perception_ros.metric_depth.estimator import (
    MetricDepth,
    MetricDepthEstimator,
    missing_tasks,
    SENSORS,
)
from sd_perception_ros.paths import printable
from sd_perception_ros.people.options import HUMAN_POSE
from sd_perception_ros.ros.options import OutputOptions
from sd_perception_ros.safe_save import replace_folder, write_text
from sd_perception_ros.tasks.task import Task
from sd_perception_ros.types import Camera, Prediction, UInt8

if TYPE_CHECKING:  # with ROS
    from sd_perception_ros.ros.recordings import RecordingWriter, Step

T = TypeVar('T')
SETTINGS = 'predict.json'
_READ_AHEAD = 2  # frames that wait for the engine
_WRITERS = 2
_MAX_WAITING = 4  # frames that wait for the disk: memory


@dataclass
class Progress:
    """
    Counts and times of a run, and its bar.

    :ivar done: frames that were predicted and written.
    :ivar found: frames that were complete before.
    :ivar failed: frames and inputs that gave nothing.
    :ivar engine_s: time in the network and its decoding.
    """

    bar: Any
    done: int = 0
    found: int = 0
    failed: int = 0
    engine_s: float = 0.0
    start_s: float = field(default_factory=time.perf_counter)
    _lock: Lock = field(default_factory=Lock)

    def count(self) -> None:
        """Count a frame that was written; called by the threads that write."""
        with self._lock:
            self.done += 1

    def fail(self, text: str) -> None:
        """Report an input or a frame that gives nothing."""
        self.failed += 1
        self.bar.write(f'error: {printable(text)}', file=sys.stderr)

    def summary(self, out: Path) -> dict[str, Any]:
        """Return counts and times for --json."""
        wall_s = time.perf_counter() - self.start_s
        return {
            'out': str(out),
            'frames': self.done,
            'done_before': self.found,
            'failed': self.failed,
            'wall_s': round(wall_s, 3),
            'engine_s': round(self.engine_s, 3),
            'frames_per_s': round(self.done / wall_s, 3) if wall_s else 0.0,
        }


class Predictor:
    """
    The engine and metric depth, as in the node.

    :param horizontal_fov_deg: field of view of frames without intrinsics; 0: unknown.
    :raises ValueError: options that need what `predict` does not have.
    """

    def __init__(
        self, config: EngineConfig, options: OutputOptions, horizontal_fov_deg: float
    ) -> None:
        self.engine = engine = Engine.from_config(
            config, options.checkpoints(), options.human_pose.top_down
        )
        enabled = [t for t in engine.tasks if getattr(options, t).enabled]
        self.tasks = {name: engine.tasks[name] for name in enabled}
        if not self.tasks:
            raise ValueError('every task is disabled; remove <task>.enabled: false of one')
        if engine.needs_boxes and HUMAN_POSE in self.tasks:
            raise ValueError(
                'human_pose.top_down.boxes: detections needs a detector, which predict does not '
                'have; choose another source of boxes, or --tasks without human_pose'
            )
        self.options, self._fov_deg = options, horizontal_fov_deg
        if problem := missing_tasks(options.depth.scale, self.tasks):
            raise ValueError(problem)

    def estimator(self) -> MetricDepthEstimator:
        """Return a new estimator, which knows no earlier frames."""
        depth = self.options.depth
        names = class_names_of(self.tasks, 'segmentation') if 'segmentation' in self.tasks else ()
        return MetricDepthEstimator(
            depth.scale, self.tasks, names, depth.min_range_m, depth.max_range_m
        )

    def predict(self, rgb: UInt8) -> dict[str, Prediction]:
        """Return the predictions of an image, in the order of the tasks."""
        found = self.engine.predict([rgb], list(self.tasks))[0]
        return {name: found[name] for name in self.tasks}

    def camera_of(self, frame: Frame) -> Camera | None:
        """Return the intrinsics of a frame; None if they are unknown."""
        if frame.camera is not None or frame.rgb is None or not self._fov_deg:
            return frame.camera
        height, width = frame.rgb.shape[:2]
        return camera_from_fov(width, height, self._fov_deg)

    def metric(
        self, estimator: MetricDepthEstimator, frame: Frame, predictions: Mapping[str, Prediction]
    ) -> MetricDepth:
        """Return metric depth, or why there is none; source none: no reason."""
        if not estimator.task:
            return MetricDepth.withheld('')
        return estimator.update(predictions, self.camera_of(frame), frame.stamp_s)


def run(arguments: argparse.Namespace, config: EngineConfig, options: OutputOptions) -> int:
    """
    Predict for all inputs; return 1 if one of them gave nothing.

    :raises OSError: the folder of the results cannot be written.
    :raises ValueError: it has results of other options.
    """
    inputs = find_inputs(arguments.inputs, arguments.out)
    if options.depth.scale.source in SENSORS and (inputs.pictures.files or inputs.videos):
        raise ValueError(
            f'depth.scale.source {options.depth.scale.source} needs the topic of a sensor, which '
            'pictures and videos do not have; choose ground, person or fixed'
        )
    folder = Folder(arguments.out, arguments.data_format)
    _settle(arguments, config, options)
    with tqdm(unit='frame', disable=None) as bar:
        progress = Progress(bar)
        for problem in inputs.problems:
            progress.fail(problem)
        found = _readable(inputs, arguments.topics, progress)
        as_bags = not arguments.write or BAG in arguments.write
        recorded = {v: count for v, (count, _) in found.items() if isinstance(v, BagCamera)}
        if not set(arguments.write) - {BAG}:  # recordings only as recordings
            found = {v: about for v, about in found.items() if v not in recorded}
        videos, bags = found, _by_bag(recorded) if as_bags else {}
        if videos and FILM_NOTE:
            bar.write(f'note: {FILM_NOTE}', file=sys.stderr)
        if inputs.pictures.files or videos or bags:
            predictor = Predictor(config, options, arguments.horizontal_fov_deg)
            job = Job(predictor, folder, progress, arguments)
            if not any(video.is_live for video in videos):
                counts = [min(count, arguments.frames or count) for count, _ in videos.values()]
                counts += [recorded[camera] for cameras in bags.values() for camera in cameras]
                bar.reset(len(inputs.pictures) + sum(counts))
            progress.start_s = time.perf_counter()
            try:
                job.run_pictures(inputs.pictures)
                for video, (_, rate_hz) in videos.items():
                    job.run_video(video, rate_hz)
                for bag, cameras in bags.items():
                    job.run_bag(bag, cameras)
            except OSError as error:  # of writing: those of reading end one input only
                progress.fail(_cannot_write(arguments.out, error))
    counts_and_times = progress.summary(arguments.out)
    if arguments.json:
        write_text(arguments.json, json.dumps(counts_and_times, indent=1) + '\n')
    print(_line(counts_and_times))
    return 1 if progress.failed else 0


def _by_bag(cameras: Iterable[BagCamera]) -> dict[Path, list[BagCamera]]:
    bags: dict[Path, list[BagCamera]] = {}
    for camera in cameras:
        bags.setdefault(camera.bag, []).append(camera)
    return bags


def _readable(
    inputs: Inputs, topics: list[str], progress: Progress
) -> dict[Video | BagCamera, tuple[int, float]]:
    """Return number of frames and rate of the videos that can be read, and report the others."""
    videos: list[Video | BagCamera] = [*inputs.videos]
    for name, bag in inputs.bags.items():
        try:
            videos += cameras_of(bag, name, topics)
        except (OSError, ValueError) as error:
            progress.fail(without_newlines(error))
    found = {}
    for video in videos:
        try:
            found[video] = video.count_and_rate()
        except (OSError, ValueError) as error:
            progress.fail(without_newlines(error))
    return found


@dataclass(frozen=True)
class Job:
    """The parts of a run, and what it does with each kind of input."""

    predictor: Predictor
    folder: Folder
    progress: Progress
    arguments: argparse.Namespace

    def run_pictures(self, pictures: Pictures) -> None:
        """Predict for pictures; errors of writing are raised."""
        kinds = [kind for kind in self.arguments.write if kind in PICTURE_KINDS] or PICTURE_KINDS
        with Background(_WRITERS, _MAX_WAITING) as writers:
            for frame in ahead(pictures.frames(self._is_done(kinds)), _READ_AHEAD):
                predicted = self._predict(frame, self.predictor.estimator())
                if predicted is not None:
                    writers.submit(partial(self._write, predicted, kinds))
                self.progress.bar.update()

    def run_video(self, video: Video | BagCamera, rate_hz: float) -> None:
        """Predict for the frames of a video; errors of writing are raised."""
        kinds = [kind for kind in self.arguments.write if kind in PICTURE_KINDS]
        film = None
        if VIDEO in self.arguments.write or not kinds:
            if not self._is_done([VIDEO])(video.name, video.source) or video.is_live:
                film = Film(self.folder.path / f'video/{video.name}{SUFFIX}', rate_hz)
            elif not kinds:
                self.progress.found += 1
                return
        try:
            complete = self._run_frames(video, kinds, film)
            if film is not None and film.finish() and complete:
                about = {'source': video.source, 'video': f'video/{video.name}{SUFFIX}'}
                self.folder.finish(video.name, [VIDEO], about)
        finally:
            if film is not None:
                film.discard()  # what is not complete

    def run_bag(self, bag: Path, cameras: Sequence[BagCamera]) -> None:
        """Write a recording with the outputs of its cameras; errors of writing are raised."""
        from sd_perception_ros.ros import recordings

        name = cameras[0].recording
        if self._is_done([BAG])(name, printable(bag)):
            self.progress.found += 1
            return
        options, tasks = self.predictor.options, self.predictor.tasks
        topics = [camera.topic for camera in cameras]
        final = self.folder.path / BAG / name
        part = final.parent / '.part' / final.name  # the files have the name of their folder
        shutil.rmtree(part, ignore_errors=True)
        failed, withheld = self.progress.failed, dict.fromkeys(topics, 0)
        try:
            with closing(open_recording(recording_parts(bag))) as reader:
                frames = recordings.RecordingReader(
                    reader, topics, options.depth.scale, self.arguments.reference
                )
                outputs = {
                    topic: recordings.RecordedOutputs(tasks, options, prefix)
                    for topic, prefix in recordings.camera_names(topics).items()
                }
                writer = recordings.RecordingWriter(
                    part, reader, outputs, self.arguments.namespace
                )
                self._run_steps(frames.steps(), writer, bag)
                writer.close()
            replace_folder(part, final)
            withheld = {topic: made.withheld for topic, made in outputs.items()}
        except ValueError as error:
            self.progress.fail(f'{bag}: {error}')
        finally:
            shutil.rmtree(part.parent, ignore_errors=True)
        if self.progress.failed == failed:
            about = {'source': printable(bag), 'bag': f'{BAG}/{name}', 'without_metres': withheld}
            self.folder.finish(name, [BAG], about)

    def _run_steps(self, steps: Iterator[Step], writer: RecordingWriter, bag: Path) -> None:
        """Predict for the images of a recording; what is read before damage is written."""

        def write(step: Step, predictions: Mapping[str, Prediction] | None) -> None:
            writer.write(step, predictions)
            if predictions is not None:
                self.progress.count()

        with Background(1, _MAX_WAITING) as writing:
            try:
                for step in ahead(steps, _READ_AHEAD):
                    image, predictions = step.image, None
                    if image is not None and image.frame is not None:
                        where = f'{bag}:{image.topic}'
                        predictions = self._predictions(where, image.frame.rgb)
                    elif image is not None:
                        self.progress.fail(f'{bag}:{image.topic}: {image.problem}')
                    writing.submit(partial(write, step, predictions))
                    self.progress.bar.update(image is not None)
            except DamagedRecordingError as error:
                self.progress.fail(f'{bag}: {error}')

    def _run_frames(
        self, video: Video | BagCamera, kinds: Collection[str], film: Film | None
    ) -> bool:
        """Predict for all frames of a video, and return whether none was missing."""
        estimator, failed = self.predictor.estimator(), self.progress.failed
        # A video needs all frames.
        is_done = self._is_done(kinds) if film is None and not video.is_live else _never
        frames = ahead(video.frames(is_done), _READ_AHEAD)
        limit = self.arguments.frames or None
        with Background(_WRITERS, _MAX_WAITING) as writers, Background(1, _MAX_WAITING) as filming:
            try:
                for frame in itertools.islice(frames, limit):
                    predicted = self._predict(frame, estimator)
                    if predicted is not None and kinds:
                        writers.submit(partial(self._write, predicted, kinds))
                    if predicted is not None and film is not None:
                        filming.submit(partial(self._film, predicted, film, not kinds))
                    self.progress.bar.update()
            except KeyboardInterrupt:
                if not video.is_live:
                    raise
        return self.progress.failed == failed

    def _predict(self, frame: Frame, estimator: MetricDepthEstimator) -> Predicted | None:
        """Predict for a frame; None, and counted, if it was not read or the network failed."""
        if frame.problem:
            self.progress.fail(frame.problem)
            return None
        if frame.rgb is None:
            self.progress.found += 1
            return None
        predictions = self._predictions(frame.source, frame.rgb)
        if predictions is None:
            return None
        metric = self.predictor.metric(estimator, frame, predictions)
        return Predicted(frame, frame.rgb, predictions, metric, self.predictor.tasks)

    def _predictions(self, source: str, rgb: UInt8) -> dict[str, Prediction] | None:
        """Run the engine; None, and counted, if it failed."""
        start_s = time.perf_counter()
        try:
            return self.predictor.predict(rgb)
        except (ValueError, FloatingPointError) as error:
            self.progress.fail(f'{source}: {error}')
            return None
        finally:
            self.progress.engine_s += time.perf_counter() - start_s

    def _is_done(self, kinds: Collection[str]) -> IsDone:
        if self.arguments.overwrite:
            return _never
        return lambda name, source: self.folder.is_done(name, source, kinds)

    def _film(self, predicted: Predicted, film: Film, count: bool) -> None:
        film.write(predicted.sheet(FILM_PX), predicted.frame.stamp_s)
        if count:
            self.progress.count()

    def _write(self, predicted: Predicted, kinds: Collection[str]) -> None:
        """Write the files of a frame."""
        frame, predictions, metric = predicted.frame, predicted.predictions, predicted.metric
        about: dict[str, Any] = {
            'source': frame.source,
            'time_s': frame.stamp_s,
            'height': predicted.rgb.shape[0],
            'width': predicted.rgb.shape[1],
            'weights_license': self.predictor.engine.license,
        }
        if HUMAN_POSE in predictions:
            about['people'] = people_of(predictions[HUMAN_POSE])
        if metric.depth_m is not None or metric.problem:
            about['metric_depth'] = {
                'source': self.predictor.options.depth.scale.source,
                'problem': metric.problem,
            }
        values = list(all_values(predicted.tasks, predictions, metric))
        self.folder.write(frame.name, kinds, about, predicted.pictures, values, predicted.sheet)
        self.progress.count()


@dataclass(frozen=True)
class Predicted:
    """
    The results of a frame.

    :ivar tasks: {name: task} of the predictions.
    """

    frame: Frame
    rgb: UInt8
    predictions: Mapping[str, Prediction]
    metric: MetricDepth
    tasks: Mapping[str, Task]

    @cached_property
    def pictures(self) -> dict[str, UInt8]:
        """{topic: picture} of each task."""
        return dict(
            picture_of(self.tasks[name], prediction, self.rgb)
            for name, prediction in self.predictions.items()
        )

    def sheet(self, width_px: int = SHEET_PX) -> UInt8:
        """Return the picture and its tasks side by side."""
        return sheet(self.rgb, self.tasks, self.predictions, self.pictures, self.metric, width_px)


def _never(name: str, source: str) -> bool:
    return False


def _settle(arguments: argparse.Namespace, config: EngineConfig, options: OutputOptions) -> None:
    """
    Write the options into the folder, so that a later run does not mix results.

    :raises ValueError: the folder has results of other options.
    """
    file = arguments.out / SETTINGS
    settings = {
        **{name: value for name, value in asdict(config).items() if name not in _FREE},
        'outputs': asdict(options),
        'horizontal_fov_deg': arguments.horizontal_fov_deg,
        'data_format': arguments.data_format,
    }
    try:
        before = json.loads(file.read_text(encoding='utf-8'))
    except FileNotFoundError:
        before = settings
    except (ValueError, RecursionError):
        before = {}
    other = sorted(name for name in settings if before.get(name) != settings[name])
    if other and not arguments.overwrite:
        raise ValueError(
            f'{arguments.out} has results of an earlier run with another '
            f'{" and ".join(name.replace("_", " ") for name in other)}; choose another --out, or '
            'replace them with --overwrite'
        )
    write_text(file, json.dumps(settings, indent=1) + '\n')


# Options that do not change the results.
_FREE = ('device', 'cuda_graphs', 'threads', 'accept_license')


def _cannot_write(out: Path, error: OSError) -> str:
    return (
        f'{out} cannot be written ({error.strerror or error}); what is done stays: free space or '
        'make it writable, then run the same command again'
    )


def _line(counts: Mapping[str, Any]) -> str:
    """Return the summary in one line."""
    parts = [f'{counts["frames"]} frames predicted']
    if counts['frames']:
        share = counts['engine_s'] / max(counts['wall_s'], 1e-9)
        parts[0] += (
            f' in {counts["wall_s"]:.1f} s ({counts["frames_per_s"]:.1f} per second, {share:.0%} '
            'of the time in the engine)'
        )
    if counts['done_before']:
        parts.append(f'{counts["done_before"]} done before')
    if counts['failed']:
        parts.append(f'{counts["failed"]} failed')
    return f'{", ".join(parts)}; results in {printable(counts["out"])}'


class Background:
    """
    Threads that write while the engine works.

    :param waiting: largest number of tasks that are not finished.
    """

    def __init__(self, threads: int, waiting: int) -> None:
        self._pool, self._limit = ThreadPoolExecutor(threads), waiting
        self._tasks: deque[Future[None]] = deque()

    def submit(self, task: Callable[[], None]) -> None:
        """
        Run a task in a thread; wait while too many are not finished.

        Errors of earlier tasks are raised here.
        """
        while len(self._tasks) >= self._limit or (self._tasks and self._tasks[0].done()):
            self._tasks.popleft().result()
        self._tasks.append(self._pool.submit(task))

    def __enter__(self) -> Background:
        """Return itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Finish all tasks; the first error of one is raised."""
        self._pool.shutdown()
        if error[0] is None:
            for task in self._tasks:
                task.result()


def ahead(items: Iterator[T], count: int) -> Iterator[T]:
    """Yield the items of an iterator, which runs ahead in a thread by `count` items."""
    end: Any = object()
    with ThreadPoolExecutor(1) as pool:
        waiting = deque(pool.submit(next, items, end) for _ in range(count))
        while True:
            item = waiting.popleft().result()
            if item is end:
                return
            waiting.append(pool.submit(next, items, end))
            yield item
