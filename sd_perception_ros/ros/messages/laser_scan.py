"""LaserScan messages from metric depth."""

from __future__ import annotations

import math

from sensor_msgs.msg import LaserScan
from std_msgs.msg import Header

from sd_perception_ros.geometry.laser_scan import scan_ranges, ScanGeometry
from sd_perception_ros.geometry.pinhole import Transform
from sd_perception_ros.ros.messages.image import float_array
from sd_perception_ros.ros.output_options import ScanOptions
from sd_perception_ros.types import Camera, Float


def scan_message(
    depth_m: Float,
    camera: Camera,
    scan_from_optical: Transform,
    header: Header,
    options: ScanOptions,
) -> LaserScan:
    """
    Make a scan in the frame `scan.frame_id`, with the stamp of the image.

    :param depth_m: (H, W) float32 metres (REP 117).
    :param scan_from_optical: transform from the camera's optical frame to the scan's frame.
    :param header: header of the image.
    """
    geometry = ScanGeometry(
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
    msg.angle_min, msg.angle_increment = geometry.min_angle_rad, geometry.increment_rad
    msg.angle_max = geometry.min_angle_rad + (geometry.beams - 1) * geometry.increment_rad
    msg.range_min, msg.range_max = options.min_range_m, options.max_range_m
    ranges_m = scan_ranges(depth_m, camera, scan_from_optical, geometry, options.stride)
    msg.ranges = float_array(ranges_m)
    return msg
