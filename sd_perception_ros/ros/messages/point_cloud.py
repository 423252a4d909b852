"""PointCloud2 messages from metric depth and an image."""

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
from sd_perception_ros.geometry.point_cloud import voxel_means, without_edges
from sd_perception_ros.ros.messages.image import byte_array
from sd_perception_ros.ros.output_options import PointsOptions
from sd_perception_ros.types import Camera, Float, UInt8

# Aligned and without padding, so that readers can use the data without a copy.
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

    The cloud is organized, with NaN for pixels without depth. With `voxel_m` it is unorganized
    and its points are finite. It has at least one point, NaN if there is none: Nav2's costmaps
    would regard the source as stale after an empty cloud.

    :param depth_m: (H, W) float32 metres along +z, NaN or infinite where there is no point.
    :param rgb: (H, W, 3) uint8 image of the same size.
    :param labels: (H, W) class ids, for the field `label`.
    :raises ValueError: the sizes of camera and depth map differ.
    """
    stride = options.stride
    shape = -(-depth_m.shape[0] // stride), -(-depth_m.shape[1] // stride)
    dtype = np.dtype([*_FIELDS, _LABEL] if labels is not None else list(_FIELDS))
    # The points are written into the message's memory, without a copy of several megabytes.
    data = array.array('B', [0]) * (shape[0] * shape[1] * dtype.itemsize)
    points = np.frombuffer(data, dtype).reshape(shape)
    columns = points.view(np.float32).reshape(*shape, -1)
    depth_m = without_edges(depth_m, options.max_relative_jump)
    back_project(depth_m, camera, stride, out=columns[..., :3])
    _pack_rgb(rgb[::stride, ::stride], points['rgb'])
    if labels is not None:
        points['label'] = labels[::stride, ::stride]
    if options.voxel_m:
        return pack_points(_voxel_grid(points[np.isfinite(columns[..., 2])], options), header)
    return pack_points(points, header, data)


def pack_points(
    points: NDArray[Any], header: Header, data: array.array[int] | None = None
) -> PointCloud2:
    """
    Make a cloud from a structured array.

    :param points: (N,) or organized (H, W); fields of the types in `_TYPES`, without padding.
    :param data: memory of `points`, if it is an array.array; else it is copied.
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
    msg.data = byte_array(points.view(np.uint8)) if data is None else data
    return msg


def _datatype(name: str, dtype: np.dtype[Any]) -> int:
    """Return the datatype of a field; rgb is declared as a float, as in PCL and RViz."""
    return int(PointField.FLOAT32) if name == 'rgb' else _TYPES[dtype.str[1:]]


def _voxel_grid(points: NDArray[Any], options: PointsOptions) -> NDArray[Any]:
    """Return the mean point of each voxel, with colour and class of the voxel's first point."""
    xyz_m = np.stack([points[axis] for axis in 'xyz'], axis=1)
    means, first = voxel_means(xyz_m, options.voxel_m, options.voxel_min_points)
    filtered = points[first]
    if len(filtered) == 0:
        filtered = np.zeros(1, points.dtype)
        means = np.full((1, 3), np.nan, np.float32)
    for index, axis in enumerate('xyz'):
        filtered[axis] = means[:, index]
    return filtered


def _pack_rgb(rgb: UInt8, out: np.ndarray) -> None:
    """Write 0x00RRGGBB; PCL and RViz read these bits from a float32 field named rgb."""
    bgra = cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2BGRA)
    np.bitwise_and(bgra.view('<u4')[..., 0], np.uint32(0xFFFFFF), out=out)
