"""Inputs of metric depth: the reference sensor of a camera, and transforms."""

from __future__ import annotations

from rclpy.node import Node

from sd_perception_ros.geometry.pinhole import Transform
from sd_perception_ros.metric_depth.estimator import Measurement, MetricDepth, SENSORS
from sd_perception_ros.metric_depth.options import MountingOptions, NO_SOURCE, ScaleOptions
from sd_perception_ros.ros.frame import CameraFrame
from sd_perception_ros.ros.input.reference import ReferenceInput
from sd_perception_ros.ros.input.transforms import parent_from_optical, Transforms
from sd_perception_ros.ros.node.diagnostics import NodeStatistics
from sd_perception_ros.ros.node.logs import PersistentWarning


class MetricInput:
    """
    The reference sensor of one camera (sources depth and scan), and transforms.

    :param options: source of the scale.
    :param camera: name of the camera, if there are several.
    """

    def __init__(self, options: ScaleOptions, stats: NodeStatistics, camera: str = '') -> None:
        self._options, self._stats, self._camera = options, stats, camera
        self._node: Node | None = None
        self._sensor: ReferenceInput | None = None
        self._transforms: Transforms | None = None
        self._warnings: dict[str, PersistentWarning] = {}

    def open(self, node: Node) -> None:
        """Subscribe to tf2 and to the sensor, if the source needs them."""
        if self._node is None:
            self._node = node
            self._warnings = {
                name: PersistentWarning(node.get_logger()) for name in ('metres', 'transform')
            }
        if self._options.source == NO_SOURCE:
            self._sensor = self._transforms = None
            return
        self._transforms = transforms = Transforms(node)
        self._sensor = (
            ReferenceInput(node, self._options, transforms, self._camera)
            if self._options.source in SENSORS
            else None
        )

    def set_options(self, options: ScaleOptions) -> None:
        """Use another source or other limits from the next frame on."""
        before, self._options = self._options, options
        used = ('source', 'max_offset_s', 'scan_mounting')
        if self._node is not None and any(getattr(before, n) != getattr(options, n) for n in used):
            sensor, transforms = self._sensor, self._transforms
            self.open(self._node)  # first: the worker thread may be using the old ones
            _close(sensor, transforms)

    def close(self) -> None:
        """Unsubscribe."""
        _close(self._sensor, self._transforms)
        self._node = self._sensor = self._transforms = None

    def on_timer(self) -> None:
        """Adapt to the QoS of new publishers."""
        if self._sensor is not None:
            self._sensor.on_timer()

    def reset(self) -> None:
        """Forget all messages, after a jump in time."""
        if self._sensor is not None:
            self._sensor.reset()

    @property
    def topics(self) -> list[str]:
        """Full names of the subscribed topics."""
        return [] if self._sensor is None else [self._sensor.topic]

    def measurement(self, frame: CameraFrame) -> Measurement | None:
        """
        Find the sensor's measurement at the time of a frame.

        :returns: None if the source is no sensor.
        :raises ValueError: no measurement fits the frame.
        """
        if self._options.source not in SENSORS:
            return None
        if self._sensor is None:
            raise ValueError('the node is not active')
        return self._sensor.find(frame)

    def transform_to(
        self, frame_id: str, frame: CameraFrame, mounting: MountingOptions
    ) -> Transform | None:
        """
        Return the transform from the optical frame of an image to another frame.

        :param frame_id: the other frame.
        :param mounting: pose of the camera in that frame; used if tf2 is not installed.
        :returns: None if the image has no frame_id, or, with a warning, if tf2 has no transform.
        """
        if not frame.header.frame_id:
            return None
        try:
            if self._transforms is not None:
                transform = self._transforms.lookup(frame_id, frame.header)
                return parent_from_optical(mounting) if transform is None else transform
        except ValueError as error:
            self._stats.warn(str(error))
            self._log('transform', f'no output in frame {frame_id}: {error}')
            return None
        return parent_from_optical(mounting)

    def report(self, metric: MetricDepth) -> None:
        """Write the scale of a frame and its quality, or the problem, to the diagnostics."""
        quality, line = metric.fit.quality, metric.fit.measured
        self._stats.set('metric depth source', self._options.source)
        self._stats.set('metric depth', quality.problem or 'good')
        if line is not None:
            self._stats.set('metric depth: scale', f'{line.scale:.4g}')
            self._stats.set('metric depth: shift', f'{line.shift:.4g}')
        if quality.references:
            self._stats.set('references', str(quality.references))
            for name in ('inliers', 'residual', 'skill', 'support'):
                self._stats.set(f'references: {name}', f'{getattr(quality, name):.3f}')
        if quality.problem:
            self._stats.count('metric depth withheld')
            text = f'no metric depth: {quality.problem}'
            camera = f' of camera {self._camera}' if self._camera else ''
            source = f'depth.scale.source: {self._options.source}'
            self._stats.warn(text)
            self._log('metres', f'{text}; metric topics{camera} are silent ({source})')
        elif 'metres' in self._warnings:
            self._warnings['metres'].clear()

    def _log(self, kind: str, text: str) -> None:
        if kind in self._warnings:
            self._warnings[kind].report(text)


def _close(sensor: ReferenceInput | None, transforms: Transforms | None) -> None:
    if sensor is not None:
        sensor.close()
    if transforms is not None:
        transforms.close()
