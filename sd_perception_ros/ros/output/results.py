"""A prediction on its way to become messages, and what all tasks' messages have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from sensor_msgs.msg import CameraInfo, Image, LaserScan, PointCloud2
from std_msgs.msg import Header
from visualization_msgs.msg import MarkerArray

from sd_perception_ros.drawing import draw_people, over_checkerboard
from sd_perception_ros.geometry.keypoints_3d import lift_joints, place_joints
from sd_perception_ros.metric_depth.scale import to_metres
from sd_perception_ros.ros.messages.camera_info import info_from_camera
from sd_perception_ros.ros.messages.image import image_message, millimetres, shares_to_levels
from sd_perception_ros.ros.messages.labels import class_ids, mask_ids, mask_of, PERSON
from sd_perception_ros.ros.messages.laser_scan import scan_message
from sd_perception_ros.ros.messages.people import keypoints_message, markers_message
from sd_perception_ros.ros.messages.point_cloud import cloud_message
from sd_perception_ros.ros.metric_scale import Metres, metric_task
from sd_perception_ros.ros.options import OutputOptions
from sd_perception_ros.tasks.task import Task
from sd_perception_ros.types import Camera, Float, UInt8

# Markers in metres have the size of a joint; on a plane they keep their size in the picture.
_MARKER_M, _MARKER_PER_M = 0.06, 0.015


@dataclass(frozen=True)
class Frame:
    """A picture on its way through the node; `camera` is None where there are no intrinsics."""

    header: Header
    rgb: UInt8
    camera: Camera | None = None


@dataclass
class Shown:
    """What the messages before this one have put on screens: the number of people."""

    people: int = 0


@dataclass(frozen=True)
class Result:
    """
    The prediction of one task for one frame, ready to become messages.

    :ivar others: results of all tasks that ran on this frame, by task name.
    :ivar metres: gives the frame its scale; None where there is none.
    """

    frame: Frame
    prediction: Any
    task: Task
    options: OutputOptions
    others: Mapping[str, Result] = field(default_factory=dict)
    shown: Shown = field(default_factory=Shown)
    metres: Metres | None = None

    def image(self, values: Any, encoding: str) -> Image:
        """Make an image message with the header of the input."""
        return image_message(values, encoding, self.frame.header)

    def values(self) -> Image:
        """Give the prediction's values as they are."""
        return self.image(self.prediction.values, '32FC1')

    def color(self) -> Image:
        """Paint the prediction for people."""
        return self.image(self.task.colorize(self.prediction), 'rgb8')

    def shares(self, values: Float) -> Image:
        """Give 0..1 as grey levels 0..255."""
        return self.image(shares_to_levels(values), 'mono8')

    # ---- depth -----------------------------------------------------------------------------

    @cached_property
    def depth_m(self) -> Float | None:
        """
        Depth in metres, computed once for all topics that need it.

        None where no scale can be trusted: then all of them are silent for this frame.
        """
        if self.metres is None:
            return None
        aligned = self.metres.align(self.frame, self.task.name, self.others)
        if aligned is None:
            return None
        depth = self.options.depth
        return to_metres(self.prediction.values, aligned, depth.min_range_m, depth.max_range_m)

    def metric_image(self) -> Image | None:
        """Give depth in metres, or in millimetres where the options say so."""
        if self.depth_m is None:
            return None
        encoding = self.options.depth.encoding
        return self.image(
            millimetres(self.depth_m) if encoding == '16UC1' else self.depth_m, encoding
        )

    def camera_info(self) -> CameraInfo | None:
        """
        Describe the pinhole camera that `depth/points` is made with, without distortion.

        The driver's own info tells two cameras, K of the raw picture and P of the rectified one,
        and `depth_image_proc` would make other points from `depth/image_rect` than we do.
        """
        if self.frame.camera is None or self.depth_m is None:
            return None
        return info_from_camera(self.frame.camera, self.frame.header)

    def points(self) -> PointCloud2 | None:
        """Make the cloud; None without metres, valid intrinsics or a frame to put it in."""
        options = self.options.depth.points
        classes = self.others.get('segmentation')
        if options.needs_classes and classes is None:
            return None
        names = classes.task.class_names if classes is not None else ()
        return self._cloud(class_ids(names, options.exclude_classes), only=False)

    def people_points(self) -> PointCloud2 | None:
        """Make the cloud of people alone."""
        classes = self.others.get('segmentation')
        if classes is None:
            return None
        return self._cloud(class_ids(classes.task.class_names, [PERSON]), only=True)

    def _cloud(self, ids: Sequence[int], only: bool) -> PointCloud2 | None:
        """Make the cloud without some classes, or of them alone."""
        frame, options = self.frame, self.options.depth.points
        if frame.camera is None or not frame.header.frame_id or self.depth_m is None:
            return None
        depth_m, labels = self.depth_m, None
        if ids or options.add_label_field:
            labels = self.others['segmentation'].prediction.labels
        if ids:
            depth_m = np.where(np.isin(labels, ids) == only, depth_m, np.float32(np.nan))
        shown = labels if options.add_label_field else None
        return cloud_message(depth_m, frame.rgb, frame.camera, frame.header, options, shown)

    def scan(self) -> LaserScan | None:
        """Make the scan; None without metres, valid intrinsics or a place for it."""
        frame, options = self.frame, self.options.scan
        if frame.camera is None or not frame.header.frame_id or self.depth_m is None:
            return None
        place = self.metres.place(options.frame_id, frame.header, options.mounting)
        if place is None:
            return None
        return scan_message(self.depth_m, frame.camera, place, frame.header, options)

    # ---- segmentation, matting -------------------------------------------------------------

    def mask(self) -> Image:
        """Give the pixels of the chosen classes, 255, and of all others, 0."""
        ids = mask_ids(self.task.class_names, self.options.segmentation)
        return self.image(mask_of(self.prediction.labels, ids), 'mono8')

    def cutout(self) -> Image:
        """Show the foreground over a checkerboard."""
        return self.image(over_checkerboard(self.frame.rgb, self.prediction.alpha), 'rgb8')

    # ---- pose ------------------------------------------------------------------------------

    @cached_property
    def joints_m(self) -> Float | None:
        """Joints in space, (P, 17, 3); None without a camera or a depth in metres."""
        space = metric_task(self.options.depth.scale, self.others)
        depth_m = self.others[space].depth_m if space else None
        if self.frame.camera is None or depth_m is None:
            return None
        return lift_joints(self.prediction, depth_m, self.frame.camera)

    def keypoints(self) -> PointCloud2 | None:
        """List the joints that were found; None without a frame to put them in."""
        if not self.frame.header.frame_id:
            return None
        return keypoints_message(self.prediction, self.joints_m, self.frame.header)

    def markers(self) -> MarkerArray | None:
        """
        Show the people in space, or else on a plane in front of the camera.

        None without valid intrinsics or a frame to put them in.
        """
        camera, header, options = self.frame.camera, self.frame.header, self.options.human_pose
        if camera is None or not header.frame_id:
            return None
        joints_m, size_m = self.joints_m, _MARKER_M
        if joints_m is None:
            joints_m = place_joints(self.prediction, camera, options.plane_distance_m)
            size_m = _MARKER_PER_M * options.plane_distance_m
        before, self.shown.people = self.shown.people, len(joints_m)
        return markers_message(joints_m, before, header, size_m, options.marker_lifetime_s)

    def overlay(self) -> Image:
        """Draw the skeletons over the camera's picture."""
        return self.image(draw_people(self.frame.rgb, self.prediction), 'rgb8')


def has_mask(task: Any, options: OutputOptions) -> bool:
    """Return whether there are classes to mask; raise ValueError for names of none."""
    return bool(mask_ids(task.class_names, options.segmentation))


def has_scan(task: Task, options: OutputOptions) -> bool:
    """Return whether the scan has a frame."""
    return bool(options.scan.frame_id)


def always(task: Task, options: OutputOptions) -> bool:
    """Say yes."""
    return True
