"""Depth in metres to a laser scan message."""

from __future__ import annotations

import math

from sensor_msgs.msg import LaserScan
from std_msgs.msg import Header

from sd_perception_ros.geometry.laser_scan import scan_ranges, ScanShape
from sd_perception_ros.geometry.pinhole import Transform
from sd_perception_ros.ros.messages.image import floats_of
from sd_perception_ros.ros.options_outputs import ScanOptions
from sd_perception_ros.types import Camera, Float


def scan_message(
    depth_m: Float, camera: Camera, place: Transform, header: Header, options: ScanOptions
) -> LaserScan:
    """
    Make a scan in the frame of the options, with the stamp of the picture.

    :param place: from the camera's optical frame to the scan's.
    """
    shape = ScanShape(
        math.radians(options.min_angle_deg),
        math.radians(options.max_angle_deg),
        math.radians(options.increment_deg),
        options.min_range_m,
        options.max_range_m,
        options.min_height_m,
        options.max_height_m,
        options.min_points,
        options.free_margin,
    )
    msg = LaserScan(header=Header(stamp=header.stamp, frame_id=options.frame_id))
    msg.angle_min, msg.angle_increment = shape.min_angle_rad, shape.increment_rad
    msg.angle_max = shape.min_angle_rad + (shape.beams - 1) * shape.increment_rad
    msg.range_min, msg.range_max = options.min_range_m, options.max_range_m
    msg.ranges = floats_of(scan_ranges(depth_m, camera, place, shape, options.stride))
    return msg
