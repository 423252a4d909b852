"""Conversion between sensor_msgs/CameraInfo and pinhole cameras."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header

from sd_perception_ros.geometry.pinhole import crop_and_bin
from sd_perception_ros.geometry.undistortion import Lens
from sd_perception_ros.types import Camera

# Focal length as a fraction of the image's side: fields of view of 157 and of 1 degree.
_MIN_FOCAL_LENGTH, _MAX_FOCAL_LENGTH = 0.1, 50.0
# Wider than 140 degrees is unusual without a fisheye.
_WIDE_FOCAL_LENGTH = 0.18
# Largest ratio of the two focal lengths.
_MAX_ASPECT = 2.5
# The principal point as a fraction of the image's side: refused outside the first range, and in a
# corner, where it lies if it was never set, or was calibrated at another resolution.
_MIN_CENTRE, _MAX_CENTRE, _CORNER = -0.5, 1.5, 0.1
# Numbers of coefficients of OpenCV's pinhole model: plumb_bob, rational_polynomial, thin prism,
# tilted. Their order is the same: what the model is follows from their number.
_PINHOLE_COUNTS = (4, 5, 8, 12, 14)
# Names of models in drivers, in lower case, with underscores.
_PINHOLE_MODELS = {'', 'plumb_bob', 'rational_polynomial', 'radtan', 'brown_conrady', 'pinhole'}
_NO_MODELS = {'none', 'perspective', 'rectilinear'}
_FISHEYE_MODELS = {'equidistant', 'fisheye', 'kannala_brandt', 'kannala_brandt4'}


def camera_from_info(info: CameraInfo, width: int, height: int, rectified: bool) -> Camera:
    """
    Read the intrinsics of a (height, width) image from its CameraInfo.

    The distortion is not used, and not checked: see `lens_from_info`.

    :param rectified: use P, for a rectified image; else K. An unset P of a lens without
        distortion is K.
    :returns: the camera after the info's region of interest and binning (REP 104).
    :raises ValueError: the info is uncalibrated, impossible or of another image size.
    """
    name = 'P' if rectified and (any(info.p) or is_distorted(info)) else 'K'
    matrix = np.reshape(info.p if name == 'P' else info.k, (3, -1))
    if not matrix.any():
        raise ValueError(f'CameraInfo.{name} is all zero: calibrate the camera')
    if not np.isfinite(matrix).all():
        raise ValueError(f'CameraInfo.{name} must be finite, got {matrix.ravel().tolist()}')
    full = Camera(
        float(matrix[0, 0]),
        float(matrix[1, 1]),
        float(matrix[0, 2]),
        float(matrix[1, 2]),
        info.width,
        info.height,
    )
    if full.fx <= 0 or full.fy <= 0:
        raise ValueError(
            f'CameraInfo focal lengths must be positive, got fx {full.fx} and fy {full.fy}'
        )
    _check_form(name, matrix)
    _check_region(info)
    camera = crop_and_bin(full, *_region(info), *_binning(info))
    if (camera.width, camera.height) != (width, height):
        raise ValueError(
            f'CameraInfo is for {camera.width} x {camera.height} pixels (after region of '
            f'interest and binning) but the image is {width} x {height}; publish the info of '
            'this image'
        )
    _check_view(full)
    return camera


def lens_from_info(info: CameraInfo, width: int, height: int) -> Lens:
    """
    Read the distortion and the rectified camera of a (height, width) image.

    :raises ValueError: as `camera_from_info`, or the distortion cannot be read.
    """
    raw = camera_from_info(info, width, height, rectified=False)
    model, coefficients = _distortion(info)
    rectified, rotation = raw, np.eye(3).ravel()
    if any(info.p):
        rectified = camera_from_info(info, width, height, rectified=True)
        if any(info.r):
            rotation = np.array(info.r, np.float64)
            _check_rotation(rotation.reshape(3, 3))
    return Lens(model, coefficients, raw, rectified, tuple(rotation.tolist()))


def doubts(info: CameraInfo) -> list[str]:
    """
    List what is unusual in an info that can be used, and what is wrong in its unused parts.

    :param info: an info that `camera_from_info` accepted.
    """
    found, size = [], f'{info.width} x {info.height} pixels'
    for name, matrix in (('K', np.reshape(info.k, (3, 3))), ('P', np.reshape(info.p, (3, 4)))):
        fx, cx, cy = matrix[0, 0], matrix[0, 2], matrix[1, 2]
        if not matrix.any():
            continue
        if not (1 <= 4 * cx / info.width <= 3 and 1 <= 4 * cy / info.height <= 3):
            found.append(
                f'the principal point ({cx:g}, {cy:g}) of CameraInfo.{name} is far from the '
                f'middle of {size}'
            )
        if not fx >= _WIDE_FOCAL_LENGTH * info.width and _model(info) not in _FISHEYE_MODELS:
            found.append(f'CameraInfo.{name} has a focal length of {fx:g} for {size}: very wide')
        if any(info.k) and any(info.p) and not info.k[0] / 3 <= fx <= info.k[0] * 3:
            found.append(f'CameraInfo.P has the focal length {fx:g} and K {info.k[0]:g}')
    try:
        _distortion(info)
        if any(info.r):
            _check_rotation(np.reshape(info.r, (3, 3)))
    except ValueError as error:
        found.append(str(error))
    return found


def image_size(info: CameraInfo) -> tuple[int, int]:
    """Return the (width, height) of the image of a CameraInfo; zeros if unset."""
    *_, width, height = _region(info)
    binning_x, binning_y = _binning(info)
    return width // binning_x, height // binning_y


def is_distorted(info: CameraInfo) -> bool:
    """Return whether the raw image is distorted."""
    return _model(info) in _FISHEYE_MODELS or any(info.d)


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


def _model(info: CameraInfo) -> str:
    return str(info.distortion_model).strip().lower().replace('-', '_').replace(' ', '_')


def _distortion(info: CameraInfo) -> tuple[str, tuple[float, ...]]:
    """Return plumb_bob, rational_polynomial or equidistant, and the coefficients."""
    model, coefficients = _model(info), tuple(info.d)
    if not all(map(math.isfinite, coefficients)):
        raise ValueError(f'CameraInfo.d must be finite, got {list(coefficients)}')
    if model in _FISHEYE_MODELS:
        if any(coefficients[4:]) or 0 < len(coefficients) < 4:
            raise ValueError(
                f"CameraInfo.d has {len(coefficients)} coefficients, but '{model}' has 4"
            )
        return 'equidistant', coefficients[:4]
    if model not in _PINHOLE_MODELS | _NO_MODELS:
        known = sorted(filter(None, _PINHOLE_MODELS | _NO_MODELS | _FISHEYE_MODELS))
        raise ValueError(
            f"unknown CameraInfo.distortion_model '{info.distortion_model}'; choose one of: "
            f'{", ".join(known)}'
        )
    if not any(coefficients):
        return 'plumb_bob', ()
    if model in _NO_MODELS:
        raise ValueError(
            f"CameraInfo.distortion_model is '{info.distortion_model}', but d is not zero: "
            f'{list(coefficients)}'
        )
    if len(coefficients) not in _PINHOLE_COUNTS:
        raise ValueError(
            f"CameraInfo.d has {len(coefficients)} coefficients, but '{info.distortion_model}' "
            f'has {", ".join(map(str, _PINHOLE_COUNTS[:-1]))} or {_PINHOLE_COUNTS[-1]}'
        )
    return 'plumb_bob' if len(coefficients) < 8 else 'rational_polynomial', coefficients


def _check_form(name: str, matrix: NDArray[np.float64]) -> None:
    """Refuse a K or P that is no [fx 0 cx; 0 fy cy; 0 0 1], for example a transposed one."""
    smallest = 1e-6 * min(matrix[0, 0], matrix[1, 1])
    for row, column in ((1, 0), (2, 0), (2, 1)):
        if abs(matrix[row, column]) > smallest:
            raise ValueError(
                f'CameraInfo.{name}[{row * matrix.shape[1] + column}] must be 0, got '
                f'{matrix[row, column]:g}; is {name} written column by column?'
            )
    if abs(matrix[0, 1]) > 0.01 * matrix[0, 0]:
        raise ValueError(
            f'CameraInfo.{name}[1] must be 0 (pixels are rectangles), got {matrix[0, 1]:g}'
        )
    if matrix[2, 2] not in (0, 1):  # 0: drivers that fill what they know
        raise ValueError(
            f'CameraInfo.{name}[{2 * matrix.shape[1] + 2}] must be 1, got {matrix[2, 2]:g}'
        )


def _check_region(info: CameraInfo) -> None:
    """Refuse a region of interest beyond the sensor."""
    x, y, width, height = _region(info)
    if not (info.width and info.height):
        raise ValueError(
            f'CameraInfo is for {info.width} x {info.height} pixels; set its width and height'
        )
    for axis, begin, length, size in (
        ('x', x, width, info.width),
        ('y', y, height, info.height),
    ):
        if begin + length > size:
            raise ValueError(
                f'the region of interest of CameraInfo ends at {axis} = {begin + length}, beyond '
                f'the {info.width} x {info.height} pixels of the sensor: width and height of a '
                'CameraInfo are those of the whole sensor (REP 104)'
            )


def _check_view(full: Camera) -> None:
    """Refuse focal lengths and principal points that no lens has."""
    size = f'{full.width} x {full.height}'
    ratios = full.fx / full.width, full.fy / full.height
    if min(ratios) < _MIN_FOCAL_LENGTH or max(ratios) > _MAX_FOCAL_LENGTH:
        angle = math.degrees(2 * math.atan(full.width / 2 / full.fx))
        raise ValueError(
            f'CameraInfo focal lengths fx {full.fx:g} and fy {full.fy:g} are too '
            f'{"short" if min(ratios) < _MIN_FOCAL_LENGTH else "long"} for a {size} image '
            f'({angle:.4g} degrees wide); give them in pixels, not in millimetres or fractions '
            'of the width'
        )
    if max(full.fx / full.fy, full.fy / full.fx) > _MAX_ASPECT:
        raise ValueError(
            f'CameraInfo focal lengths fx {full.fx:g} and fy {full.fy:g} differ by more than '
            f'{_MAX_ASPECT} times; pixels are about square'
        )
    u, v = (full.cx + 0.5) / full.width, (full.cy + 0.5) / full.height
    if not all(_MIN_CENTRE <= value <= _MAX_CENTRE for value in (u, v)):
        raise ValueError(
            f'the principal point ({full.cx:.1f}, {full.cy:.1f}) lies far outside the '
            f'{size} image; calibrate the camera at this size'
        )
    if max(u, v) < _CORNER or min(u, v) > 1 - _CORNER:
        raise ValueError(
            f'the principal point ({full.cx:.1f}, {full.cy:.1f}) lies in a corner of the {size} '
            'image; K and P must be of the size that CameraInfo has'
        )


def _check_rotation(rotation: NDArray[np.float64]) -> None:
    """Refuse an R that is no rotation."""
    error = np.abs(rotation @ rotation.T - np.eye(3)).max()
    if not error < 0.01 or np.linalg.det(rotation) < 0:
        raise ValueError(
            'CameraInfo.R must be a rotation, got '
            f'{[round(float(value), 4) for value in rotation.ravel()]}'
        )
