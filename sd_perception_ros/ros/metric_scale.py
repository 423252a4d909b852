"""Metres for a frame: the one place where a node decides whether it has any."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from rclpy.node import Node
from std_msgs.msg import Header

from sd_perception_ros.geometry.pinhole import Transform
from sd_perception_ros.metric_depth.alignment import align, align_by_factor, Fit, Quality
from sd_perception_ros.metric_depth.ground import find_ground
from sd_perception_ros.metric_depth.options import MountingOptions, NO_SOURCE, ScaleOptions
from sd_perception_ros.metric_depth.references import from_people
from sd_perception_ros.metric_depth.scale import Alignment, ScaleShift, to_metres
from sd_perception_ros.metric_depth.scale_filter import FrozenReference, ScaleFilter
from sd_perception_ros.ros.input.pairing import stamp_ns
from sd_perception_ros.ros.input.reference import ReferenceInput
from sd_perception_ros.ros.input.transforms import Frames, optical_in
from sd_perception_ros.ros.node.diagnostics import Statistics
from sd_perception_ros.types import Float

if TYPE_CHECKING:
    from sd_perception_ros.ros.output.results import Frame, Result

# The tasks that metres can be made from; the second one gives 1 / depth.
INVERSE = 'disparity'
SPACES = ('depth', INVERSE)
SENSORS = ('depth', 'scan')
# Source: tasks that it cannot do without, and those that make it better.
NEEDS: Mapping[str, tuple[str, ...]] = {'ground': ('normals',), 'person': ('human_pose',)}
LIKES: Mapping[str, tuple[str, ...]] = {'ground': ('segmentation',)}
# Names of classes that lie on the ground.
FLOORS = ('floor', 'ground', 'road', 'sidewalk', 'carpet', 'rug', 'floor_mat')
# More of the picture than this below the ground: it was a table.
_MOST_BELOW = 0.2


class Metres:
    """
    Makes depth in metres, frame by frame, or tells why there is none.

    :param options: where the scale comes from.
    :param camera: whose frames, where there are several.
    """

    def __init__(self, options: ScaleOptions, stats: Statistics, camera: str = '') -> None:
        self._options, self._stats, self._camera = options, stats, camera
        self._filter = ScaleFilter(options.filter)
        self._frozen = FrozenReference()
        self._input: ReferenceInput | None = None
        self._frames: Frames | None = None

    def open(self, node: Node) -> None:
        """Begin to listen to tf2, and to a sensor, where one is the source."""
        if self._options.source != NO_SOURCE:
            self._frames = Frames(node)
        if self._options.source in SENSORS:
            self._input = ReferenceInput(node, self._options, self._frames, self._camera)

    def close(self) -> None:
        """Stop listening, and forget what was."""
        if self._input is not None:
            self._input.close()
        if self._frames is not None:
            self._frames.close()
        self._input = self._frames = None
        self.reset()

    def tend(self) -> None:
        """Follow publishers that came or changed."""
        if self._input is not None:
            self._input.tend()

    def reset(self) -> None:
        """Forget what was, after a jump of time."""
        self._filter.reset()
        self._frozen.reset()
        if self._input is not None:
            self._input.reset()

    @property
    def topics(self) -> list[str]:
        """Full names of the topics that are listened to."""
        return [] if self._input is None else [self._input.topic]

    def align(self, frame: Frame, space: str, results: Mapping[str, Result]) -> Alignment | None:
        """
        Find the scale of a frame; None where none can be trusted, which is reported.

        :param space: the task that metres are made from.
        :param results: of all tasks that ran, by name.
        """
        try:
            fit = self._fit(frame, space, results)
        except ValueError as error:
            fit = Fit(None, None, Quality(problem=str(error)))
        self._report(fit)
        return None if fit.quality.problem else fit.alignment

    def place(self, frame: str, header: Header, mounting: MountingOptions) -> Transform | None:
        """
        Return the transform to a frame from the optical frame of a picture.

        :param mounting: of the camera in that frame, where tf2 is not installed.
        :returns: None where tf2 does not know it, which is reported.
        """
        try:
            found = self._frames.lookup(frame, header) if self._frames is not None else None
        except ValueError as error:
            self._stats.warn(str(error))
            return None
        return optical_in(mounting) if found is None else found

    def _fit(self, frame: Frame, space: str, results: Mapping[str, Result]) -> Fit:
        """Ask the source; raises ValueError where it has nothing to say."""
        options, relative = self._options, results[space].prediction.values
        fixed = ScaleShift(options.scale_m, options.shift_m, space == INVERSE)
        if options.source == 'fixed':
            return Fit(fixed, Alignment.everywhere(fixed), Quality())
        if options.source in SENSORS:
            return self._fit_sensor(frame, relative, fixed.inverse)
        if frame.camera is None:
            raise ValueError(f'the source {options.source} needs the camera info of the picture')
        if options.source == 'person':
            people = results['human_pose'].prediction
            references = from_people(people, frame.camera, options.stature_m)
            return align_by_factor(
                relative, references, fixed, options.limits, steady=self._steady(frame)
            )
        return self._fit_ground(frame, relative, fixed.inverse, results)

    def _fit_sensor(self, frame: Frame, relative: Float, inverse: bool) -> Fit:
        options = self._options
        if self._input is None:
            raise ValueError('the node is not active')
        size = (relative.shape[0], relative.shape[1])
        said = self._input.find(frame.header, frame.camera, size)
        if self._frozen.is_frozen(said.digest, frame.rgb):
            raise ValueError(
                f'{self._input.topic} sends the same data again and again while the picture moves'
            )
        return align(
            relative,
            said.references,
            inverse,
            options.limits,
            steady=self._steady(frame),
            local=options.local and options.source == 'depth',
        )

    def _fit_ground(
        self, frame: Frame, relative: Float, inverse: bool, results: Mapping[str, Result]
    ) -> Fit:
        options, camera = self._options, frame.camera
        ground = find_ground(
            results['normals'].prediction.values,
            camera,
            options.camera_height_m,
            options.camera_pitch_deg,
            _floor(results.get('segmentation')),
        )
        fit = align(
            relative, ground.references, inverse, options.limits, steady=self._steady(frame)
        )
        if fit.alignment is None or fit.quality.problem:
            return fit
        below = ground.share_below(to_metres(relative, fit.alignment), camera)
        if below > _MOST_BELOW:
            raise ValueError(
                f'{below:.0%} of the picture lies below what was taken for the ground'
            )
        return fit

    def _steady(self, frame: Frame) -> Callable[[ScaleShift], ScaleShift | None]:
        return lambda own: self._filter.update(own, stamp_ns(frame.header) / 1e9)

    def _report(self, fit: Fit) -> None:
        quality, line = fit.quality, fit.own
        self._stats.note('metres from', self._options.source)
        self._stats.note('metres', quality.problem or 'good')
        if line is not None:
            self._stats.note('scale, shift', f'{line.scale:.4g}, {line.shift:.4g}')
        if quality.references:
            self._stats.note('references', str(quality.references))
            for name in ('inliers', 'residual', 'skill', 'support'):
                self._stats.note(f'references: {name}', f'{getattr(quality, name):.3f}')
        if quality.problem:
            self._stats.count('metres withheld')
            self._stats.warn(f'no metres: {quality.problem}')


def metric_task(options: ScaleOptions, tasks: Collection[str]) -> str:
    """
    Name the task that metres are made from.

    :returns: empty where there is no source, or a model's tasks cannot do it.
    """
    if options.source == NO_SOURCE or why_no_metres(options, tasks):
        return ''
    return next(task for task in _spaces(options) if task in tasks)


def why_no_metres(options: ScaleOptions, tasks: Collection[str]) -> str:
    """Say what a model lacks for the source of metres; empty where it lacks nothing."""
    if options.source == NO_SOURCE:
        return ''
    lacking = [task for task in NEEDS.get(options.source, ()) if task not in tasks]
    if not set(_spaces(options)) & set(tasks):
        lacking.append(' or '.join(_spaces(options)))
    if not lacking:
        return ''
    return (
        f"no metres: depth.scale.source '{options.source}' needs the task "
        f'{" and ".join(lacking)}, which the model does not have; choose another source, '
        'checkpoint or tasks'
    )


def _spaces(options: ScaleOptions) -> tuple[str, ...]:
    return SPACES if options.from_task == 'auto' else (options.from_task,)


def helpers(options: ScaleOptions) -> tuple[str, ...]:
    """Name the tasks that the source asks for help."""
    return NEEDS.get(options.source, ()) + LIKES.get(options.source, ())


def _floor(segmentation: Result | None) -> NDArray[np.bool_] | None:
    """Return where the classes of the ground are; None where no class is one."""
    if segmentation is None:
        return None
    names = segmentation.task.class_names
    ids = [index for index, name in enumerate(names) if name in FLOORS]
    return np.isin(segmentation.prediction.labels, ids) if ids else None
