"""The metric depth of each frame, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
import math

import numpy as np
from numpy.typing import NDArray

from sd_perception_ros.metric_depth.alignment import align, align_by_factor, Fit, Quality
from sd_perception_ros.metric_depth.ground import find_ground
from sd_perception_ros.metric_depth.options import NO_SOURCE, ScaleOptions
from sd_perception_ros.metric_depth.plausibility import check_range
from sd_perception_ros.metric_depth.references import from_people, References
from sd_perception_ros.metric_depth.scale import Alignment, ScaleShift, to_metres
from sd_perception_ros.metric_depth.scale_filter import FrozenSensorDetector, ScaleFilter
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

# Tasks that metric depth is computed from, in order of preference; disparity gives 1 / depth.
INVERSE_TASK = 'disparity'
DEPTH_TASKS = ('depth', INVERSE_TASK)
# Sources that are sensors and need a measurement for each frame.
SENSORS = ('depth', 'scan')
# Further tasks that a source needs, and tasks that it uses if the model has them.
REQUIRED_TASKS: Mapping[str, tuple[str, ...]] = {'ground': ('normals',), 'person': ('human_pose',)}
OPTIONAL_TASKS: Mapping[str, tuple[str, ...]] = {'ground': ('segmentation',)}
# Names of segmentation classes that lie on the ground.
GROUND_CLASSES = ('floor', 'ground', 'road', 'sidewalk', 'carpet', 'rug', 'floor_mat')
# If a larger fraction of the image lies below the plane, the plane is a table and not the ground.
_MAX_SHARE_BELOW = 0.2


@dataclass(frozen=True)
class Measurement:
    """
    A sensor's measurement at the time of an image.

    :ivar references: pixels of known depth.
    :ivar digest: hash of the sensor's data without its stamp; equal digests while the image
        changes reveal a frozen sensor.
    :ivar rgb: (H, W, 3) uint8, the image.
    :ivar sensor: name of the sensor for error texts, for example its topic.
    """

    references: References
    digest: bytes
    rgb: UInt8
    sensor: str = 'the sensor'


@dataclass(frozen=True)
class MetricDepth:
    """
    Metric depth of one frame, or the reason why there is none.

    :ivar depth_m: (H, W) float32 metres along +z of the optical frame; -Inf too near, +Inf beyond
        the range, NaN unknown (REP 117). None: there is no trusted scale.
    :ivar fit: scale, shift and their quality; `fit.quality.problem` is the reason if `depth_m` is
        None.
    """

    depth_m: Float | None
    fit: Fit

    @property
    def problem(self) -> str:
        """Reason why there is no metric depth; empty if there is."""
        return self.fit.quality.problem

    @classmethod
    def withheld(cls, problem: str) -> MetricDepth:
        """Return a result without depth, with the reason."""
        return cls(None, Fit(None, None, Quality(problem=problem)))


class MetricDepthEstimator:
    """
    Compute the metric depth of a camera's frames.

    One estimator serves one camera and one model: it filters the scale over time.

    :param options: source of the scale, limits of trust, and filter.
    :param tasks: names of the model's tasks.
    :param class_names: classes of the model's segmentation, in the order of their ids.
    :param min_range_m: nearer depth becomes -Inf.
    :param max_range_m: farther depth becomes +Inf.
    :ivar task: task that metric depth is computed from; empty if the source is none or the model
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
        self._frozen_sensor = FrozenSensorDetector()

    def reset(self) -> None:
        """Forget all previous frames, for example after a jump in time."""
        self._filter.reset()
        self._frozen_sensor.reset()

    def update(
        self,
        predictions: Mapping[str, Prediction],
        camera: Camera | None,
        stamp_s: float,
        measurement: Measurement | None = None,
    ) -> MetricDepth:
        """
        Compute the metric depth of the next frame.

        :param predictions: {task: prediction} of the frame; those of `self.tasks` are used.
        :param camera: intrinsics of the image; None if unknown.
        :param stamp_s: time stamp of the image in seconds, for the filter.
        :param measurement: measurement of the sensor, for the sources depth and scan.
        """
        try:
            fit = self._fit(predictions, camera, stamp_s, measurement)
        except ValueError as error:
            return MetricDepth.withheld(str(error))
        if fit.alignment is None or fit.quality.problem:
            return MetricDepth(None, fit)
        relative = self._relative(predictions)
        depth_m = to_metres(relative, fit.alignment, *self._range_m)
        if self._options.source in SENSORS and not np.isfinite(depth_m).any():
            return MetricDepth.withheld(
                'no pixel lies between depth.min_range_m {:g} and depth.max_range_m {:g}'.format(
                    *self._range_m
                )
            )
        return MetricDepth(depth_m, fit)

    def _relative(self, predictions: Mapping[str, Prediction]) -> Float:
        """Return relative depth or disparity, (H, W); ValueError if the task did not run."""
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
        """Fit scale and shift; ValueError if the source gives no references."""
        options, relative = self._options, self._relative(predictions)
        configured = ScaleShift(options.scale_m, options.shift_m, self.task == INVERSE_TASK)
        if options.source == 'fixed':
            return Fit(configured, Alignment.uniform(configured), Quality())
        if options.source in SENSORS:
            return self._fit_sensor(relative, stamp_s, measurement)
        if camera is None:
            raise ValueError(f"source '{options.source}' needs the camera_info of the image")
        if options.source == 'person':
            people = predictions.get('human_pose')
            if not isinstance(people, Poses):
                raise ValueError("the task 'human_pose' did not run: enable it")
            return align_by_factor(
                relative,
                from_people(people, camera, options.stature_m),
                configured,
                options.limits,
                scale_filter=self._filter_at(stamp_s),
            )
        return self._fit_ground(relative, predictions, camera, stamp_s)

    def _fit_sensor(self, relative: Float, stamp_s: float, measurement: Measurement | None) -> Fit:
        options = self._options
        if measurement is None:
            raise ValueError('no measurement of the sensor came with this frame')
        known = len(measurement.references) > 0  # a sensor that sees nothing repeats itself
        if known and self._frozen_sensor.is_frozen(measurement.digest, measurement.rgb):
            raise ValueError(
                f'{measurement.sensor} repeats the same data while the camera image changes: '
                'restart the sensor'
            )
        check_range(measurement.references, self._range_m, measurement.sensor)
        return align(
            relative,
            measurement.references,
            self.task == INVERSE_TASK,
            options.limits,
            scale_filter=self._filter_at(stamp_s),
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
            scale_filter=self._filter_at(stamp_s),
        )
        if fit.alignment is None or fit.quality.problem:
            return fit
        below = ground.share_below(to_metres(relative, fit.alignment), camera)
        if below > _MAX_SHARE_BELOW:
            raise ValueError(
                f'{below:.0%} of the image lies below the detected ground plane, the limit is '
                f'{_MAX_SHARE_BELOW:.0%}: the plane is probably a table or a shelf'
            )
        return fit

    def _ground_mask(self, segmentation: Prediction | None) -> NDArray[np.bool_] | None:
        """Return the (H, W) mask of the ground's classes; None if the model has none of them."""
        if not isinstance(segmentation, LabelMap) or not self._ground_ids:
            return None
        return np.isin(segmentation.labels, self._ground_ids)

    def _filter_at(self, stamp_s: float) -> Callable[[ScaleShift], ScaleShift | None]:
        return lambda measured: self._filter.update(measured, stamp_s)


def depth_task(options: ScaleOptions, tasks: Collection[str]) -> str:
    """
    Return the task that metric depth is computed from.

    :param tasks: names of the model's tasks.
    :returns: empty if the source is none or the model lacks a task.
    """
    if options.source == NO_SOURCE or missing_tasks(options, tasks):
        return ''
    return next(task for task in _depth_tasks(options) if task in tasks)


def missing_tasks(options: ScaleOptions, tasks: Collection[str]) -> str:
    """Return a warning about tasks that the source needs and the model lacks; empty if none."""
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
