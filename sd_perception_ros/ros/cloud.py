"""Depth in metres and a picture to an organized point cloud message."""

from __future__ import annotations

import array
import sys

import cv2
import numpy as np
from sensor_msgs.msg import PointCloud2, PointField
from std_msgs.msg import Header

from sd_perception_ros.geometry import back_project
from sd_perception_ros.types import Camera, Float, UInt8

POINT_BYTES = 16


def cloud_message(
    depth_m: Float, rgb: UInt8, camera: Camera, header: Header, stride: int = 1
) -> PointCloud2:
    """
    Make an organized xyzrgb cloud in the camera optical frame (x right, y down, z forward).

    A pixel without depth is a point of three NaN: it stays in its place, so the cloud is never
    empty (costmaps wait for ever for the next observation after an empty one).

    :param depth_m: (H, W) float32 metres along +z, NaN or infinite where unknown.
    :param rgb: (H, W, 3) uint8, the picture of the same grid.
    :param stride: take every so manieth row and column.
    :raises ValueError: the camera is of another picture size.
    """
    height, width = -(-depth_m.shape[0] // stride), -(-depth_m.shape[1] // stride)
    # The points are written straight into the message's memory: no copy of these megabytes.
    data = array.array('B', [0]) * (height * width * POINT_BYTES)
    points = np.frombuffer(data, np.float32).reshape(height, width, 4)
    back_project(depth_m, camera, stride, out=points[..., :3])
    _pack_rgb(rgb[::stride, ::stride], points[..., 3].view(np.uint32))
    msg = PointCloud2(header=header, height=height, width=width)
    msg.fields = [
        PointField(name=name, offset=4 * i, datatype=PointField.FLOAT32, count=1)
        for i, name in enumerate(('x', 'y', 'z', 'rgb'))
    ]
    msg.is_bigendian = sys.byteorder == 'big'
    msg.is_dense = False
    msg.point_step = POINT_BYTES
    msg.row_step = POINT_BYTES * width
    msg.data = data
    return msg


def _pack_rgb(rgb: UInt8, out: np.ndarray) -> None:
    """Write 0x00RRGGBB, whose bits PCL and RViz read through a float32 field called rgb."""
    bgra = cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2BGRA)
    np.bitwise_and(bgra.view('<u4')[..., 0], np.uint32(0xFFFFFF), out=out)
