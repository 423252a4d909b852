"""The table of published topics: add an output here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TYPE_CHECKING

from sensor_msgs.msg import CameraInfo, Image, LaserScan, PointCloud2
from visualization_msgs.msg import MarkerArray

from sd_perception_ros.ros.messages.labels import (
    LABEL_INFO,
    label_info,
    LABEL_INFO_LOG_TEXT,
    mask_ids,
)
from sd_perception_ros.ros.options import OutputOptions
from sd_perception_ros.ros.output import results
from sd_perception_ros.ros.output.results import FrameResult

if TYPE_CHECKING:
    from sd_perception_ros.tasks.task import Task


def _always(tasks: Mapping[str, Task], options: OutputOptions) -> bool:
    return True


def _has_mask(tasks: Mapping[str, Task], options: OutputOptions) -> bool:
    """Return whether the model has classes to mask; ValueError for unknown class names."""
    names = getattr(tasks['segmentation'], 'class_names', ())
    return bool(mask_ids(names, options.segmentation))


def _has_scan(tasks: Mapping[str, Task], options: OutputOptions) -> bool:
    return bool(options.scan.frame_id)


def _needs_nothing(options: OutputOptions) -> tuple[str, ...]:
    return ()


def _needs_segmentation(options: OutputOptions) -> tuple[str, ...]:
    return ('segmentation',)


def _needs_classes(options: OutputOptions) -> tuple[str, ...]:
    return ('segmentation',) if options.depth.points.needs_classes else ()


@dataclass(frozen=True)
class Output:
    """
    A published topic.

    :ivar topic: relative name.
    :ivar msg_type: message type.
    :ivar task: task whose prediction is published; for metric topics `depth` stands for the task
        that metric depth is computed from.
    :ivar make: function of (result of a frame, task) that returns a message; None: no message.
    :ivar offered: function of (tasks, options): whether the topic is published.
    :ivar metric: needs metric depth; published only if `depth.scale.source` is set.
    :ivar uses_metric: uses metric depth if there is any; also published without it.
    :ivar needs: function of the options: other tasks that the messages need.
    """

    topic: str
    msg_type: type
    task: str
    make: Callable[[FrameResult, str], Any]
    offered: Callable[[Mapping[str, Task], OutputOptions], bool] = _always
    metric: bool = False
    uses_metric: bool = False
    needs: Callable[[OutputOptions], tuple[str, ...]] = _needs_nothing

    @property
    def needs_camera(self) -> bool:
        """Whether it needs the camera_info and the frame_id of the image."""
        return (self.metric or self.uses_metric) and self.msg_type is not Image


OUTPUTS = (
    Output('depth/relative', Image, 'depth', results.relative_image),
    Output('depth/color', Image, 'depth', results.color_image),
    Output('depth/image_rect', Image, 'depth', results.metric_depth_image, metric=True),
    Output('depth/camera_info', CameraInfo, 'depth', results.depth_camera_info, metric=True),
    Output(
        'depth/points', PointCloud2, 'depth', results.points, metric=True, needs=_needs_classes
    ),
    Output(
        'depth/points_people',
        PointCloud2,
        'depth',
        results.people_points,
        metric=True,
        needs=_needs_segmentation,
    ),
    Output('scan', LaserScan, 'depth', results.scan, _has_scan, metric=True),
    Output('disparity/relative', Image, 'disparity', results.relative_image),
    Output('disparity/color', Image, 'disparity', results.color_image),
    Output('normals/image', Image, 'normals', results.normals_image),
    Output('normals/color', Image, 'normals', results.color_image),
    Output('segmentation/labels', Image, 'segmentation', results.labels_image),
    Output('segmentation/confidence', Image, 'segmentation', results.confidence_image),
    Output('segmentation/mask', Image, 'segmentation', results.mask_image, _has_mask),
    Output('segmentation/color', Image, 'segmentation', results.color_image),
    Output('foreground/alpha', Image, 'foreground', results.alpha_image),
    Output('matting/alpha', Image, 'matting', results.alpha_image),
    Output('matting/color', Image, 'matting', results.cutout_image),
    Output('human_pose/markers', MarkerArray, 'human_pose', results.markers, uses_metric=True),
    Output('human_pose/keypoints', PointCloud2, 'human_pose', results.keypoints, uses_metric=True),
    Output('human_pose/overlay', Image, 'human_pose', results.overlay_image),
)
MARKERS, SCAN = 'human_pose/markers', 'scan'


@dataclass(frozen=True)
class ModelOutput:
    """
    A topic with one latched message that depends only on the model.

    :ivar make: function of the task that returns the message.
    :ivar log_text: info for the log; empty: none.
    """

    topic: str
    msg_type: type
    task: str
    make: Callable[[Any], Any]
    log_text: str = ''


MODEL_OUTPUTS = (
    ModelOutput(
        'segmentation/label_info',
        LABEL_INFO,
        'segmentation',
        lambda task: label_info(task.class_names),
        LABEL_INFO_LOG_TEXT,
    ),
)
