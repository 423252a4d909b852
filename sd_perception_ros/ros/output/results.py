"""The result of one frame, and the functions that make messages from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TYPE_CHECKING

import numpy as np
from sensor_msgs.msg import CameraInfo, Image, LaserScan, PointCloud2
from visualization_msgs.msg import MarkerArray

from sd_perception_ros.drawing import draw_people, over_checkerboard
from sd_perception_ros.geometry.keypoints_3d import joints_from_depth, joints_on_plane
from sd_perception_ros.geometry.pinhole import Transform
from sd_perception_ros.ros.frame import CameraFrame
from sd_perception_ros.ros.messages.camera_info import info_from_camera
from sd_perception_ros.ros.messages.image import image_message, millimetres, to_mono8
from sd_perception_ros.ros.messages.labels import class_ids, class_mask, mask_ids, PERSON
from sd_perception_ros.ros.messages.laser_scan import scan_message
from sd_perception_ros.ros.messages.people import keypoints_message, markers_message
from sd_perception_ros.ros.messages.point_cloud import cloud_message
from sd_perception_ros.ros.options import OutputOptions
from sd_perception_ros.types import Float, Prediction

if TYPE_CHECKING:
    from sd_perception_ros.tasks.task import Task

# Diameter of a joint's marker: in metres, and on the plane as a fraction of its distance.
_MARKER_M, _MARKER_PER_M = 0.06, 0.015


@dataclass(frozen=True)
class FrameResult:
    """
    The input of all functions that make messages.

    :ivar predictions: {task: prediction} of the tasks that ran.
    :ivar tasks: {name: task} of the model.
    :ivar depth_m: (H, W) float32 metres along +z (REP 117); None: no metric depth.
    :ivar scan_from_optical: transform to the frame of the scan; None if unknown.
    :ivar people_before: number of people in the previous markers message.
    """

    frame: CameraFrame
    predictions: Mapping[str, Prediction]
    tasks: Mapping[str, Task]
    options: OutputOptions = field(default_factory=OutputOptions)
    depth_m: Float | None = None
    scan_from_optical: Transform | None = None
    people_before: int = 0

    def image(self, values: Any, encoding: str) -> Image:
        """Make an image message with the header of the input image."""
        return image_message(values, encoding, self.frame.header)

    @property
    def class_names(self) -> Sequence[str]:
        """Names of the segmentation classes, in the order of their ids."""
        names: Sequence[str] = getattr(self.tasks.get('segmentation'), 'class_names', ())
        return names

    @cached_property
    def joints_m(self) -> Float | None:
        """Joints in the optical frame, (P, 17, 3) metres; None without camera or metric depth."""
        if self.frame.camera is None or self.depth_m is None:
            return None
        poses: Any = self.predictions['human_pose']
        return joints_from_depth(poses, self.depth_m, self.frame.camera)


# Functions of the table OUTPUTS: (result, task name) -> message, or None for no message.
# The type of a prediction follows from the task; it is Any here.


def relative_image(result: FrameResult, task: str) -> Image:
    """Relative depth or disparity, 32FC1, 0..1."""
    prediction: Any = result.predictions[task]
    return result.image(prediction.values, '32FC1')


def normals_image(result: FrameResult, task: str) -> Image:
    """Surface normals, unit vectors in the optical frame, 32FC3."""
    prediction: Any = result.predictions[task]
    return result.image(prediction.values, '32FC3')


def color_image(result: FrameResult, task: str) -> Image:
    """Colour image of a prediction, for viewers, rgb8."""
    return result.image(result.tasks[task].colorize(result.predictions[task]), 'rgb8')


def alpha_image(result: FrameResult, task: str) -> Image:
    """Alpha (fraction of the pixel that is foreground), mono8: 0..255 for 0..1."""
    prediction: Any = result.predictions[task]
    return result.image(to_mono8(prediction.alpha), 'mono8')


def cutout_image(result: FrameResult, task: str) -> Image:
    """Foreground over a checkerboard, rgb8."""
    prediction: Any = result.predictions[task]
    return result.image(over_checkerboard(result.frame.rgb, prediction.alpha), 'rgb8')


def labels_image(result: FrameResult, task: str) -> Image:
    """Class ids, mono8."""
    prediction: Any = result.predictions[task]
    return result.image(prediction.labels, 'mono8')


def confidence_image(result: FrameResult, task: str) -> Image:
    """Confidence of each pixel's class, mono8: 0..255 for 0..1."""
    prediction: Any = result.predictions[task]
    return result.image(to_mono8(prediction.confidence), 'mono8')


def mask_image(result: FrameResult, task: str) -> Image:
    """Pixels of the classes `segmentation.mask_classes`, mono8: 255, all others 0."""
    prediction: Any = result.predictions[task]
    ids = mask_ids(result.class_names, result.options.segmentation)
    return result.image(class_mask(prediction.labels, ids), 'mono8')


def metric_depth_image(result: FrameResult, task: str) -> Image | None:
    """Metric depth in metres (32FC1) or millimetres (16UC1), by `depth.encoding`."""
    if result.depth_m is None:
        return None
    encoding = result.options.depth.encoding
    values = millimetres(result.depth_m) if encoding == '16UC1' else result.depth_m
    return result.image(values, encoding)


def depth_camera_info(result: FrameResult, task: str) -> CameraInfo | None:
    """
    Intrinsics of `depth/image_rect` and `depth/points`, without distortion.

    The driver's CameraInfo is unsuitable: its K is of the raw and its P of the rectified image.
    `depth_image_proc` uses P, and would compute other points than `depth/points` for raw images.
    """
    if result.frame.camera is None or result.depth_m is None:
        return None
    return info_from_camera(result.frame.camera, result.frame.header)


def points(result: FrameResult, task: str) -> PointCloud2 | None:
    """Point cloud of all pixels except the classes `depth.points.exclude_classes`."""
    options = result.options.depth.points
    if options.needs_classes and 'segmentation' not in result.predictions:
        return None
    return _cloud(result, exclude=class_ids(result.class_names, options.exclude_classes))


def people_points(result: FrameResult, task: str) -> PointCloud2 | None:
    """Point cloud of the pixels of people."""
    if 'segmentation' not in result.predictions:
        return None
    return _cloud(result, include=class_ids(result.class_names, [PERSON]))


def _cloud(
    result: FrameResult, include: Sequence[int] = (), exclude: Sequence[int] = ()
) -> PointCloud2 | None:
    """
    Make a point cloud of the pixels of some classes; None without metric depth or intrinsics.

    :param include: ids of the classes; empty: all.
    :param exclude: ids of classes that are left out.
    """
    frame, options = result.frame, result.options.depth.points
    if frame.camera is None or not frame.header.frame_id or result.depth_m is None:
        return None
    depth_m = result.depth_m
    segmentation: Any = result.predictions.get('segmentation')
    labels = None if segmentation is None else segmentation.labels
    if include and labels is not None:
        depth_m = np.where(np.isin(labels, include), depth_m, np.float32(np.nan))
    if exclude and labels is not None:
        depth_m = np.where(np.isin(labels, exclude), np.float32(np.nan), depth_m)
    label_field = labels if options.add_label_field else None
    return cloud_message(depth_m, frame.rgb, frame.camera, frame.header, options, label_field)


def scan(result: FrameResult, task: str) -> LaserScan | None:
    """Laser scan; None without metric depth, intrinsics or the transform to its frame."""
    frame, transform = result.frame, result.scan_from_optical
    if frame.camera is None or result.depth_m is None or transform is None:
        return None
    options = result.options.scan
    return scan_message(result.depth_m, frame.camera, transform, frame.header, options)


def keypoints(result: FrameResult, task: str) -> PointCloud2 | None:
    """One point for each detected joint; None without a frame_id."""
    if not result.frame.header.frame_id:
        return None
    poses: Any = result.predictions[task]
    return keypoints_message(poses, result.joints_m, result.frame.header)


def markers(result: FrameResult, task: str) -> MarkerArray | None:
    """People in space, or on a plane without metric depth; None without intrinsics or frame_id."""
    camera, header, options = result.frame.camera, result.frame.header, result.options.human_pose
    if camera is None or not header.frame_id:
        return None
    joints_m, size_m = result.joints_m, _MARKER_M
    if joints_m is None:
        poses: Any = result.predictions[task]
        joints_m = joints_on_plane(poses, camera, options.plane_distance_m)
        size_m = _MARKER_PER_M * options.plane_distance_m
    return markers_message(
        joints_m, result.people_before, header, size_m, options.marker_lifetime_s
    )


def overlay_image(result: FrameResult, task: str) -> Image:
    """Skeletons drawn on the input image, rgb8."""
    poses: Any = result.predictions[task]
    return result.image(draw_people(result.frame.rgb, poses), 'rgb8')
