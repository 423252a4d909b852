"""Depth in metres and a picture to a point cloud message."""

from __future__ import annotations

import array
import sys
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import PointCloud2, PointField
from std_msgs.msg import Header

from sd_perception_ros.geometry.pinhole import back_project
from sd_perception_ros.geometry.point_cloud import voxels, without_edges
from sd_perception_ros.ros.messages.image import bytes_of
from sd_perception_ros.ros.options_outputs import PointsOptions
from sd_perception_ros.types import Camera, Float, UInt8

# Without gaps, and aligned: every reader may view the points as they are.
_FIELDS = (('x', 'f4'), ('y', 'f4'), ('z', 'f4'), ('rgb', 'u4'))
_LABEL = ('label', 'u4')
_TYPES = {'f4': PointField.FLOAT32, 'u4': PointField.UINT32, 'u2': PointField.UINT16}


def cloud_message(
    depth_m: Float,
    rgb: UInt8,
    camera: Camera,
    header: Header,
    options: PointsOptions,
    labels: UInt8 | None = None,
) -> PointCloud2:
    """
    Make an xyzrgb cloud in the camera optical frame (x right, y down, z forward).

    It is organized, and a pixel without depth is a point of three NaN; or, with voxels, a list of
    finite points. It is never empty: costmaps wait for ever for the next observation after an
    empty cloud.

    :param depth_m: (H, W) float32 metres along +z, NaN or infinite where there is no point.
    :param rgb: (H, W, 3) uint8, the picture of the same grid.
    :param labels: (H, W) class ids, for the field `label`.
    :raises ValueError: the camera is of another picture size.
    """
    stride = options.stride
    shape = -(-depth_m.shape[0] // stride), -(-depth_m.shape[1] // stride)
    kind = np.dtype([*_FIELDS, _LABEL] if labels is not None else list(_FIELDS))
    # The points are written straight into the message's memory: no copy of these megabytes.
    data = array.array('B', [0]) * (shape[0] * shape[1] * kind.itemsize)
    points = np.frombuffer(data, kind).reshape(shape)
    columns = points.view(np.float32).reshape(*shape, -1)
    depth_m = without_edges(depth_m, options.max_relative_jump)
    back_project(depth_m, camera, stride, out=columns[..., :3])
    _pack_rgb(rgb[::stride, ::stride], points['rgb'])
    if labels is not None:
        points['label'] = labels[::stride, ::stride]
    if options.voxel_m:
        return pack_points(_decimated(points[np.isfinite(columns[..., 2])], options), header)
    return pack_points(points, header, data)


def pack_points(
    points: NDArray[Any], header: Header, data: array.array[int] | None = None
) -> PointCloud2:
    """
    Make a cloud of a structured array.

    :param points: (N,) or organized (H, W), with named fields of `_TYPES`, without gaps.
    :param data: memory of `points`, where it is an array that the message can take as it is.
    """
    fields: Any = points.dtype.fields
    msg = PointCloud2(header=header, height=1, width=points.shape[-1])
    if points.ndim == 2:
        msg.height = points.shape[0]
    msg.fields = [
        PointField(name=name, offset=field[1], datatype=_datatype(name, field[0]), count=1)
        for name, field in fields.items()
    ]
    msg.is_bigendian = sys.byteorder == 'big'
    msg.is_dense = False
    msg.point_step = points.dtype.itemsize
    msg.row_step = points.dtype.itemsize * msg.width
    msg.data = bytes_of(points.view(np.uint8)) if data is None else data
    return msg


def _datatype(name: str, dtype: np.dtype[Any]) -> int:
    """Return the datatype of a field; rgb is packed into the bits of a float (PCL, RViz)."""
    return int(PointField.FLOAT32) if name == 'rgb' else _TYPES[dtype.str[1:]]


def _decimated(points: NDArray[Any], options: PointsOptions) -> NDArray[Any]:
    """Return a point for each voxel, with the colour and the class of its first one."""
    places = np.stack([points[axis] for axis in 'xyz'], axis=1)
    means, first = voxels(places, options.voxel_m, options.voxel_min_points)
    made = points[first]
    if len(made) == 0:
        made = np.zeros(1, points.dtype)
        means = np.full((1, 3), np.nan, np.float32)
    for index, axis in enumerate('xyz'):
        made[axis] = means[:, index]
    return made


def _pack_rgb(rgb: UInt8, out: np.ndarray) -> None:
    """Write 0x00RRGGBB, whose bits PCL and RViz read through a float32 field called rgb."""
    bgra = cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2BGRA)
    np.bitwise_and(bgra.view('<u4')[..., 0], np.uint32(0xFFFFFF), out=out)
