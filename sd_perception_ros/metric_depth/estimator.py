"""Depth in metres for each frame, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
import math

import numpy as np
from numpy.typing import NDArray

from sd_perception_ros.metric_depth.alignment import align, align_by_factor, Fit, Quality
from sd_perception_ros.metric_depth.ground import find_ground
from sd_perception_ros.metric_depth.options import NO_SOURCE, ScaleOptions
from sd_perception_ros.metric_depth.references import from_people, References
from sd_perception_ros.metric_depth.scale import Alignment, ScaleShift, to_metres
from sd_perception_ros.metric_depth.scale_filter import FrozenReference, ScaleFilter
from sd_perception_ros.types import (
    Camera,
    DepthMap,
    DisparityMap,
    Float,
    LabelMap,
    NormalMap,
    Poses,
    Prediction,
    UInt8,
)

# Tasks that metres are made from, in order of preference; disparity gives 1 / depth.
INVERSE_TASK = 'disparity'
DEPTH_TASKS = ('depth', INVERSE_TASK)
# Sources that are sensors: their measurements come with each frame.
SENSORS = ('depth', 'scan')
# Other tasks that a source needs, and those that it uses where the model has them.
REQUIRED_TASKS: Mapping[str, tuple[str, ...]] = {'ground': ('normals',), 'person': ('human_pose',)}
OPTIONAL_TASKS: Mapping[str, tuple[str, ...]] = {'ground': ('segmentation',)}
# Names of segmentation classes that lie on the ground.
GROUND_CLASSES = ('floor', 'ground', 'road', 'sidewalk', 'carpet', 'rug', 'floor_mat')
# If more of the picture than this lies below the plane, the plane is a table and not the ground.
_MAX_SHARE_BELOW = 0.2


@dataclass(frozen=True)
class Measurement:
    """
    What a sensor measured at the time of a picture.

    :ivar references: pixels of known depth.
    :ivar digest: hash of the sensor's data without its stamp; equal digests in moving pictures
        reveal a sensor that is frozen.
    :ivar rgb: (H, W, 3) uint8, the picture.
    :ivar sensor: name of the sensor for messages, for example its topic.
    """

    references: References
    digest: bytes
    rgb: UInt8
    sensor: str = 'the sensor'


@dataclass(frozen=True)
class MetricDepth:
    """
    Depth of one frame in metres, or the reason why there is none.

    :ivar depth_m: (H, W) float32 metres along +z of the optical frame; -Inf too near, +Inf beyond
        the range, NaN unknown (REP 117). None: no scale can be trusted.
    :ivar fit: the scale and shift, and how well the references agree with them;
        `fit.quality.problem` is the reason where `depth_m` is None.
    """

    depth_m: Float | None
    fit: Fit

    @property
    def problem(self) -> str:
        """Reason why there is no depth in metres; empty if there is."""
        return self.fit.quality.problem

    @classmethod
    def withheld(cls, problem: str) -> MetricDepth:
        """Return no depth, for a reason."""
        return cls(None, Fit(None, None, Quality(problem=problem)))


class MetricDepthEstimator:
    """
    Turn the relative depth of a camera's frames into metres.

    One estimator serves one camera and one model: it smooths the scale from frame to frame.

    :param options: source of the scale, limits of trust, and filter.
    :param tasks: names of the tasks that the model has.
    :param class_names: classes of the model's segmentation, in the order of their ids.
    :param min_range_m: nearer depth becomes -Inf.
    :param max_range_m: farther depth becomes +Inf.
    :ivar task: the task that metres are made from; empty where the source is none or the model
        lacks a task.
    :ivar tasks: all tasks of the model whose predictions `update` uses.
    """

    def __init__(
        self,
        options: ScaleOptions,
        tasks: Collection[str],
        class_names: Sequence[str] = (),
        min_range_m: float = 0.0,
        max_range_m: float = math.inf,
    ) -> None:
        self._options, self._range_m = options, (min_range_m, max_range_m)
        self._ground_ids = [i for i, name in enumerate(class_names) if name in GROUND_CLASSES]
        self.task = depth_task(options, tasks)
        self.tasks: frozenset[str] = frozenset()
        if self.task:
            helpers = {*_required(options), *OPTIONAL_TASKS.get(options.source, ())}
            self.tasks = frozenset({self.task, *helpers} & set(tasks))
        self._filter = ScaleFilter(options.filter)
        self._frozen = FrozenReference()

    def reset(self) -> None:
        """Forget the frames before, after a jump of time."""
        self._filter.reset()
        self._frozen.reset()

    def update(
        self,
        predictions: Mapping[str, Prediction],
        camera: Camera | None,
        stamp_s: float,
        measurement: Measurement | None = None,
    ) -> MetricDepth:
        """
        Find the scale of the next frame.

        :param predictions: of the tasks that ran on the frame, by name; those of `self.tasks` are
            used.
        :param camera: intrinsics of the picture; None where they are unknown.
        :param stamp_s: time of the picture in seconds, for the filter.
        :param measurement: of the sensor, for the sources depth and scan.
        """
        try:
            fit = self._fit(predictions, camera, stamp_s, measurement)
        except ValueError as error:
            return MetricDepth.withheld(str(error))
        if fit.alignment is None or fit.quality.problem:
            return MetricDepth(None, fit)
        relative = self._relative(predictions)
        return MetricDepth(to_metres(relative, fit.alignment, *self._range_m), fit)

    def _relative(self, predictions: Mapping[str, Prediction]) -> Float:
        """Return the (H, W) values that metres are made from; ValueError if they did not run."""
        prediction = predictions.get(self.task)
        if not isinstance(prediction, DepthMap | DisparityMap):
            raise ValueError(f"the task '{self.task or DEPTH_TASKS[0]}' did not run: enable it")
        return prediction.values

    def _fit(
        self,
        predictions: Mapping[str, Prediction],
        camera: Camera | None,
        stamp_s: float,
        measurement: Measurement | None,
    ) -> Fit:
        """Fit scale and shift; ValueError where the source gives nothing to fit to."""
        options, relative = self._options, self._relative(predictions)
        given = ScaleShift(options.scale_m, options.shift_m, self.task == INVERSE_TASK)
        if options.source == 'fixed':
            return Fit(given, Alignment.everywhere(given), Quality())
        if options.source in SENSORS:
            return self._fit_sensor(relative, stamp_s, measurement)
        if camera is None:
            raise ValueError(f"source '{options.source}' needs the camera_info of the picture")
        if options.source == 'person':
            people = predictions.get('human_pose')
            if not isinstance(people, Poses):
                raise ValueError("the task 'human_pose' did not run: enable it")
            references = from_people(people, camera, options.stature_m)
            return align_by_factor(
                relative, references, given, options.limits, steady=self._filtered(stamp_s)
            )
        return self._fit_ground(relative, predictions, camera, stamp_s)

    def _fit_sensor(self, relative: Float, stamp_s: float, measurement: Measurement | None) -> Fit:
        options = self._options
        if measurement is None:
            raise ValueError('no measurement of the sensor came with this frame')
        if self._frozen.is_frozen(measurement.digest, measurement.rgb):
            raise ValueError(
                f'{measurement.sensor} sends the same data again and again while the picture '
                'moves: restart the sensor'
            )
        return align(
            relative,
            measurement.references,
            self.task == INVERSE_TASK,
            options.limits,
            steady=self._filtered(stamp_s),
            local=options.local and options.source == 'depth',
        )

    def _fit_ground(
        self,
        relative: Float,
        predictions: Mapping[str, Prediction],
        camera: Camera,
        stamp_s: float,
    ) -> Fit:
        options, normals = self._options, predictions.get('normals')
        if not isinstance(normals, NormalMap):
            raise ValueError("the task 'normals' did not run: enable it")
        ground = find_ground(
            normals.values,
            camera,
            options.camera_height_m,
            options.camera_pitch_deg,
            self._ground_mask(predictions.get('segmentation')),
        )
        fit = align(
            relative,
            ground.references,
            self.task == INVERSE_TASK,
            options.limits,
            steady=self._filtered(stamp_s),
        )
        if fit.alignment is None or fit.quality.problem:
            return fit
        below = ground.share_below(to_metres(relative, fit.alignment), camera)
        if below > _MAX_SHARE_BELOW:
            raise ValueError(
                f'{below:.0%} of the picture lies below the plane that was taken for the ground, '
                f'at most {_MAX_SHARE_BELOW:.0%} may: it is a table or a shelf'
            )
        return fit

    def _ground_mask(self, segmentation: Prediction | None) -> NDArray[np.bool_] | None:
        """Return (H, W) where classes of the ground are; None where no class is one."""
        if not isinstance(segmentation, LabelMap) or not self._ground_ids:
            return None
        return np.isin(segmentation.labels, self._ground_ids)

    def _filtered(self, stamp_s: float) -> Callable[[ScaleShift], ScaleShift | None]:
        return lambda measured: self._filter.update(measured, stamp_s)


def depth_task(options: ScaleOptions, tasks: Collection[str]) -> str:
    """
    Name the task that metres are made from.

    :param tasks: names of the tasks that the model has.
    :returns: empty where the source is none or the model lacks a task.
    """
    if options.source == NO_SOURCE or missing_tasks(options, tasks):
        return ''
    return next(task for task in _depth_tasks(options) if task in tasks)


def missing_tasks(options: ScaleOptions, tasks: Collection[str]) -> str:
    """Explain which tasks the source needs and the model lacks; empty if none."""
    if options.source == NO_SOURCE:
        return ''
    missing = [task for task in _required(options) if task not in tasks]
    if not set(_depth_tasks(options)) & set(tasks):
        missing.append(' or '.join(_depth_tasks(options)))
    if not missing:
        return ''
    return (
        f"no metric depth: depth.scale.source '{options.source}' needs the task "
        f'{" and ".join(missing)}, which the model does not have; choose another source, '
        'checkpoint or tasks'
    )


def _depth_tasks(options: ScaleOptions) -> tuple[str, ...]:
    return DEPTH_TASKS if options.from_task == 'auto' else (options.from_task,)


def _required(options: ScaleOptions) -> tuple[str, ...]:
    return REQUIRED_TASKS.get(options.source, ())
