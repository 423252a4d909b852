"""Conversion between sensor_msgs/CameraInfo and pinhole cameras."""

from __future__ import annotations

import math

import numpy as np
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header

from sd_perception_ros.geometry.pinhole import crop_and_bin
from sd_perception_ros.geometry.undistortion import Lens
from sd_perception_ros.types import Camera

# As a fraction of the image's side: a field of view of 179.4 degrees.
_MIN_FOCAL_LENGTH = 1 / 400
# Distortion models of ROS, and how many coefficients each may have.
_COEFFICIENTS = {
    '': (0, 4, 5),
    'plumb_bob': (0, 4, 5),
    'rational_polynomial': (0, 8, 12, 14),
    'equidistant': (0, 4),
}


def camera_from_info(info: CameraInfo, width: int, height: int, rectified: bool) -> Camera:
    """
    Read the intrinsics of a (height, width) image from its CameraInfo.

    :param rectified: use P, for a rectified image; else K.
    :returns: the camera after the info's region of interest and binning (REP 104).
    :raises ValueError: the info is uncalibrated, impossible or for another image size.
    """
    _check_distortion(info)
    matrix, name = (info.p, 'P') if rectified else (info.k, 'K')
    row = 4 if rectified else 3
    fx, cx, fy, cy = matrix[0], matrix[2], matrix[row + 1], matrix[row + 2]
    if not any(matrix):
        raise ValueError(f'CameraInfo.{name} is all zero: calibrate the camera')
    if not all(math.isfinite(value) for value in matrix):
        raise ValueError(f'CameraInfo.{name} must be finite, got {list(matrix)}')
    if fx <= 0 or fy <= 0:
        raise ValueError(f'CameraInfo focal lengths must be positive, got fx {fx} and fy {fy}')
    full = Camera(fx, fy, cx, cy, info.width, info.height)
    camera = crop_and_bin(full, *_region(info), *_binning(info))
    if (camera.width, camera.height) != (width, height):
        raise ValueError(
            f'CameraInfo is for {camera.width} x {camera.height} pixels (after region of '
            f'interest and binning) but the image is {width} x {height}; publish the info of '
            'this image'
        )
    if min(camera.fx / width, camera.fy / height) < _MIN_FOCAL_LENGTH:
        raise ValueError(
            f'CameraInfo focal lengths fx {fx:g} and fy {fy:g} are too short for a {width} x '
            f'{height} image; give them in pixels, not in millimetres or fractions of the width'
        )
    if not (-width <= camera.cx <= 2 * width and -height <= camera.cy <= 2 * height):
        raise ValueError(
            f'the principal point ({camera.cx:.1f}, {camera.cy:.1f}) lies far outside the '
            f'{width} x {height} image; calibrate the camera at this size'
        )
    return camera


def lens_from_info(info: CameraInfo, width: int, height: int) -> Lens:
    """
    Read the distortion and the rectified camera of a (height, width) image.

    :raises ValueError: as for `camera_from_info`.
    """
    raw = camera_from_info(info, width, height, rectified=False)
    rectified, rotation = raw, np.eye(3).ravel()
    if any(info.p):
        rectified = camera_from_info(info, width, height, rectified=True)
        if any(info.r):
            rotation = np.array(info.r, np.float64)
    return Lens(
        info.distortion_model or 'plumb_bob',
        tuple(info.d),
        raw,
        rectified,
        tuple(rotation.tolist()),
    )


def image_size(info: CameraInfo) -> tuple[int, int]:
    """Return the (width, height) of the image of a CameraInfo; zeros if unset."""
    *_, width, height = _region(info)
    binning_x, binning_y = _binning(info)
    return width // binning_x, height // binning_y


def is_distorted(info: CameraInfo) -> bool:
    """Return whether the raw image is distorted."""
    return info.distortion_model == 'equidistant' or any(info.d)


def info_from_camera(camera: Camera, header: Header) -> CameraInfo:
    """Make the CameraInfo of a pinhole camera without distortion."""
    info = CameraInfo(header=header, width=camera.width, height=camera.height)
    info.distortion_model = 'plumb_bob'
    info.d = [0.0] * 5
    info.k = [camera.fx, 0.0, camera.cx, 0.0, camera.fy, camera.cy, 0.0, 0.0, 1.0]
    info.r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    info.p = [camera.fx, 0.0, camera.cx, 0.0, 0.0, camera.fy, camera.cy, 0.0, 0.0, 0.0, 1.0, 0.0]
    return info


def _region(info: CameraInfo) -> tuple[int, int, int, int]:
    roi = info.roi
    return roi.x_offset, roi.y_offset, roi.width or info.width, roi.height or info.height


def _binning(info: CameraInfo) -> tuple[int, int]:
    return max(info.binning_x, 1), max(info.binning_y, 1)


def _check_distortion(info: CameraInfo) -> None:
    counts = _COEFFICIENTS.get(info.distortion_model)
    if counts is None:
        raise ValueError(
            f"unknown CameraInfo.distortion_model '{info.distortion_model}'; choose one of: "
            f'{", ".join(filter(None, _COEFFICIENTS))}'
        )
    if len(info.d) not in counts:
        raise ValueError(
            f"CameraInfo.d has {len(info.d)} coefficients, but '{info.distortion_model}' has "
            f'{" or ".join(map(str, counts))}'
        )
    if not all(map(math.isfinite, info.d)):
        raise ValueError(f'CameraInfo.d must be finite, got {list(info.d)}')
