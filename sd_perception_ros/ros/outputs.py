"""What the node publishes: one line for each topic, and nothing for a topic nobody hears."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from std_msgs.msg import Header

from sd_perception_ros.alignment import to_metres
from sd_perception_ros.ros.cloud import cloud_message
from sd_perception_ros.ros.convert import image_message
from sd_perception_ros.ros.intrinsics import info_from_camera
from sd_perception_ros.ros.options import DepthOptions
from sd_perception_ros.ros.qos import OUTPUT
from sd_perception_ros.tasks.task import Task
from sd_perception_ros.types import Camera, Float, Prediction, UInt8


@dataclass(frozen=True)
class Frame:
    """A picture on its way through the node; `camera` is None where there are no intrinsics."""

    header: Header
    rgb: UInt8
    camera: Camera | None = None


@dataclass(frozen=True)
class Result:
    """The prediction of one task for one frame, ready to become messages."""

    frame: Frame
    prediction: Any
    task: Task
    depth: DepthOptions

    def image(self, values: Any, encoding: str) -> Image:
        """Make an image message with the header of the input."""
        return image_message(values, encoding, self.frame.header)

    def color(self) -> Image:
        """Paint the prediction for people."""
        return self.image(self.task.colorize(self.prediction), 'rgb8')

    @cached_property
    def depth_m(self) -> Float:
        """Depth in metres by the fixed scale, computed once for all topics that need it."""
        scale = self.depth.scale
        return to_metres(
            self.prediction.values,
            scale.scale_m,
            scale.shift_m,
            self.depth.min_range_m,
            self.depth.max_range_m,
        )

    def camera_info(self) -> CameraInfo | None:
        """
        Describe the pinhole camera that `depth/points` is made with, without distortion.

        The driver's own info tells two cameras, K of the raw picture and P of the rectified one,
        and `depth_image_proc` would make other points from `depth/image_rect` than we do.
        """
        if self.frame.camera is None:
            return None
        return info_from_camera(self.frame.camera, self.frame.header)

    def points(self) -> PointCloud2 | None:
        """Make the cloud; None without valid intrinsics or a frame to put it in."""
        frame = self.frame
        if frame.camera is None or not frame.header.frame_id:
            return None
        stride = self.depth.points.stride
        return cloud_message(self.depth_m, frame.rgb, frame.camera, frame.header, stride)


@dataclass(frozen=True)
class Output:
    """
    A topic, the task that feeds it and the way its message is made.

    :ivar metric: only published where metres are known.
    """

    topic: str
    kind: type
    task: str
    make: Callable[[Result], Any]
    metric: bool = False


OUTPUTS = (
    Output('depth/relative', Image, 'depth', lambda r: r.image(r.prediction.values, '32FC1')),
    Output('depth/color', Image, 'depth', Result.color),
    Output('depth/image_rect', Image, 'depth', lambda r: r.image(r.depth_m, '32FC1'), True),
    Output('depth/camera_info', CameraInfo, 'depth', Result.camera_info, True),
    Output('depth/points', PointCloud2, 'depth', Result.points, True),
    Output('normals/image', Image, 'normals', lambda r: r.image(r.prediction.values, '32FC3')),
    Output('normals/color', Image, 'normals', Result.color),
    Output(
        'segmentation/labels',
        Image,
        'segmentation',
        lambda r: r.image(r.prediction.labels, 'mono8'),
    ),
    Output('segmentation/color', Image, 'segmentation', Result.color),
)


class Outputs:
    """The publishers of the topics that a model can fill."""

    def __init__(
        self, node: LifecycleNode, tasks: Mapping[str, Task], depth: DepthOptions
    ) -> None:
        self._node, self._tasks, self._depth = node, tasks, depth
        metric = depth.scale.mode != 'none'
        self._publishers = {
            output: node.create_lifecycle_publisher(output.kind, output.topic, OUTPUT)
            for output in OUTPUTS
            if output.task in tasks and (metric or not output.metric)
        }

    @property
    def topics(self) -> list[str]:
        """Full names of the topics, after remapping."""
        return [publisher.topic_name for publisher in self._publishers.values()]

    def wanted(self) -> list[Output]:
        """List the outputs that somebody subscribes to."""
        return [
            output
            for output, publisher in self._publishers.items()
            if publisher.get_subscription_count() > 0
        ]

    def publish(
        self, frame: Frame, predictions: Mapping[str, Prediction], wanted: Collection[Output]
    ) -> int:
        """
        Publish what is wanted and return how many messages that were.

        :param predictions: by task name; every task of a wanted output.
        """
        results = {
            name: Result(frame, prediction, self._tasks[name], self._depth)
            for name, prediction in predictions.items()
        }
        sent = 0
        for output in wanted:
            message = output.make(results[output.task])
            if message is not None:
                self._publishers[output].publish(message)
                sent += 1
        return sent

    def close(self) -> None:
        """Take the topics down."""
        for publisher in self._publishers.values():
            self._node.destroy_lifecycle_publisher(publisher)
        self._publishers = {}
