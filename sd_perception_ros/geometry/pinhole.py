"""Transforms, intrinsics of cropped or resized images, projection and back-projection."""

from __future__ import annotations

from dataclasses import dataclass
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sd_perception_ros.types import Camera, Float


@dataclass(frozen=True)
class Transform:
    """
    Rigid transform: p_target = rotation @ p_source + translation.

    Names of transforms are <target>_from_<source>, for example scan_from_optical.

    :ivar rotation: (3, 3).
    :ivar translation: (3,) metres.
    """

    rotation: NDArray[np.float64]
    translation: NDArray[np.float64]

    def apply(self, points: NDArray[np.floating]) -> NDArray[np.floating]:
        """Transform (..., 3) points; float32 stays float32."""
        dtype = points.dtype
        rotated: NDArray[np.floating] = points @ self.rotation.T.astype(dtype)
        return rotated + self.translation.astype(dtype)

    def inverse(self) -> Transform:
        """Return the inverse transform."""
        return Transform(self.rotation.T, -self.rotation.T @ self.translation)

    def after(self, first: Transform) -> Transform:
        """Return the composition: `first` is applied first, then this transform."""
        return Transform(
            self.rotation @ first.rotation, self.rotation @ first.translation + self.translation
        )


# From the optical frame (x right, y down, z forward) to a body frame (x forward, y left, z up).
BODY_FROM_OPTICAL = Transform(
    np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]]), np.zeros(3)
)


def mounting(
    x_m: float, y_m: float, z_m: float, roll_deg: float, pitch_deg: float, yaw_deg: float
) -> Transform:
    """
    Make the transform of a joint origin in URDF: fixed-axis roll, pitch, yaw, then translation.

    :returns: transform from the child's frame to the parent's; both x forward, y left, z up.
    """
    roll, pitch, yaw = np.radians([roll_deg, pitch_deg, yaw_deg])
    about_x = [[1, 0, 0], [0, np.cos(roll), -np.sin(roll)], [0, np.sin(roll), np.cos(roll)]]
    about_y = [[np.cos(pitch), 0, np.sin(pitch)], [0, 1, 0], [-np.sin(pitch), 0, np.cos(pitch)]]
    about_z = [[np.cos(yaw), -np.sin(yaw), 0], [np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]]
    rotation = np.array(about_z) @ np.array(about_y) @ np.array(about_x)
    return Transform(rotation, np.array([x_m, y_m, z_m], np.float64))


def rotation_from_quaternion(x: float, y: float, z: float, w: float) -> NDArray[np.float64]:
    """
    Convert a quaternion to a rotation matrix, (3, 3).

    :raises ValueError: the quaternion is not normalized.
    """
    length = math.sqrt(x * x + y * y + z * z + w * w)
    if not abs(length - 1) < 0.01:
        raise ValueError(f'expected a normalized quaternion, got one of length {length}')
    x, y, z, w = (value / length for value in (x, y, z, w))
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def camera_from_fov(width: int, height: int, horizontal_fov_deg: float) -> Camera:
    """
    Make a camera with square pixels and the principal point at the image centre.

    :param horizontal_fov_deg: angle between the left and right image edges, 0..180 exclusive.
    :raises ValueError: the angle is out of range.
    """
    if not 0.0 < horizontal_fov_deg < 180.0:
        raise ValueError(
            f'the horizontal field of view must be between 0 and 180 deg, got {horizontal_fov_deg}'
        )
    focal_px = width / 2 / math.tan(math.radians(horizontal_fov_deg) / 2)
    return Camera(focal_px, focal_px, (width - 1) / 2, (height - 1) / 2, width, height)


def resize_camera(camera: Camera, width: int, height: int) -> Camera:
    """Return the intrinsics of the image after resizing it to (height, width) pixels."""
    scale_x, scale_y = width / camera.width, height / camera.height
    # Pixel centres are at integers and image edges at -0.5; edges must stay on edges.
    return Camera(
        camera.fx * scale_x,
        camera.fy * scale_y,
        (camera.cx + 0.5) * scale_x - 0.5,
        (camera.cy + 0.5) * scale_y - 0.5,
        width,
        height,
    )


def crop_and_bin(
    camera: Camera,
    x_offset: int,
    y_offset: int,
    width: int,
    height: int,
    binning_x: int = 1,
    binning_y: int = 1,
) -> Camera:
    """
    Return the intrinsics of a binned region of interest of a full-resolution image (REP 104).

    Offsets and sizes are in full-resolution pixels.

    :param x_offset: left edge of the region.
    :param y_offset: top edge of the region.
    :param width: width of the region.
    :param height: height of the region.
    :param binning_x: full-resolution pixels per binned pixel.
    :param binning_y: full-resolution pixels per binned pixel.
    """
    # Without half-pixel offsets, as in image_geometry (C++): both must give the same cloud.
    return Camera(
        camera.fx / binning_x,
        camera.fy / binning_y,
        (camera.cx - x_offset) / binning_x,
        (camera.cy - y_offset) / binning_y,
        width // binning_x,
        height // binning_y,
    )


def ray_slopes(
    u: NDArray[Any], v: NDArray[Any], camera: Camera
) -> tuple[NDArray[Any], NDArray[Any]]:
    """
    Return x / z and y / z of the rays through pixels, in the optical frame.

    :param u: columns of any shape, not rounded.
    :param v: rows.
    :returns: float32 for float32 coordinates, else float64.
    """
    x = (u - float(camera.cx)) / float(camera.fx)
    y = (v - float(camera.cy)) / float(camera.fy)
    return x, y


def back_project(
    depth_m: Float, camera: Camera, stride: int = 1, out: Float | None = None
) -> Float:
    """
    Convert a depth map to points in the camera optical frame (x right, y down, z forward).

    :param depth_m: (H, W) float32, metres along +z; NaN or infinite where there is no point.
    :param camera: intrinsics of the (H, W) image.
    :param stride: use every n-th row and column.
    :param out: (ceil(H / stride), ceil(W / stride), 3) float32 view to fill.
    :returns: `out`, or a new array of that shape: metres, NaN where there is no point.
    :raises ValueError: the sizes of camera and depth map differ.
    """
    if depth_m.shape != (camera.height, camera.width):
        raise ValueError(
            f'the camera is {camera.width} x {camera.height} pixels but the depth map is '
            f'{depth_m.shape[1]} x {depth_m.shape[0]}'
        )
    z = depth_m[::stride, ::stride]
    if out is None:
        out = np.empty((*z.shape, 3), np.float32)
    u = np.arange(0, camera.width, stride, dtype=np.float32)
    v = np.arange(0, camera.height, stride, dtype=np.float32)
    # Infinity times a ray is NaN where the ray is 0, else infinite: use NaN for all.
    out[..., 2] = np.where(np.isfinite(z), z, np.float32(np.nan))
    ray_x, ray_y = ray_slopes(u, v, camera)
    np.multiply(out[..., 2], ray_x, out=out[..., 0])
    np.multiply(out[..., 2], ray_y[:, None], out=out[..., 1])
    return out


def project(points: Float, camera: Camera) -> Float:
    """
    Project points of the optical frame into the image: (N, 2) u and v, not rounded.

    :param points: (N, 3) metres, in front of the camera (z > 0).
    """
    u = points[:, 0] / points[:, 2] * np.float32(camera.fx) + np.float32(camera.cx)
    v = points[:, 1] / points[:, 2] * np.float32(camera.fy) + np.float32(camera.cy)
    return np.stack([u, v], axis=1)


def rays(rows: NDArray[np.intp], columns: NDArray[np.intp], camera: Camera) -> Float:
    """Return the rays of pixels, (N, 3) float32: their points at a depth of 1 m."""
    x, y = ray_slopes(columns, rows, camera)
    return np.stack([x, y, np.ones_like(x)], axis=-1).astype(np.float32)
