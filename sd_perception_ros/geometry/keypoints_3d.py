"""3D keypoints: joints in image coordinates and metric depth to joints in space."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sd_perception_ros.geometry.pinhole import ray_slopes
from sd_perception_ros.types import Camera, Float, Poses

# Depth is sampled at 7 x 7 pixels around a joint. Their spacing grows with the person: for one
# 300 px tall the window is 13 px wide, about the width of an arm.
_GRID = np.arange(-3, 4)
_PERSON_PX_PER_STEP = 150.0
# Samples farther behind the nearest ones belong to another surface: metres, or fraction of depth.
_SURFACE_THICKNESS_M, _SURFACE_THICKNESS = 0.15, 0.08
# Minimum fraction of samples with a depth, and of these on the near surface.
_MIN_FINITE, _MIN_NEAR = 1 / 2, 1 / 3


def joints_from_depth(poses: Poses, depth_m: Float, camera: Camera) -> Float:
    """
    Compute all joints in the camera optical frame (x right, y down, z forward).

    The depth of a joint is the median of the nearest surface in a window around it: a person is
    in front of the background. A joint is NaN if

    - it is occluded: the depth there is that of the occluder,
    - it is outside the image,
    - less than half of its window has a depth, or
    - the depth in its window changes steadily, without a near surface.

    :param poses: P people, in pixels of the camera's image.
    :param depth_m: (H, W) float32, metres along +z; NaN or infinite where unknown.
    :param camera: intrinsics of the (H, W) image.
    :returns: (P, 17, 3) float32, metres.
    :raises ValueError: the sizes of depth map, poses and camera differ.
    """
    sizes = {depth_m.shape, (poses.height, poses.width), (camera.height, camera.width)}
    if len(sizes) > 1:
        raise ValueError(
            'depth map, poses and camera must have the same (height, width), got '
            f'{depth_m.shape}, {(poses.height, poses.width)} and {(camera.height, camera.width)}'
        )
    uv, visible = _joints(poses)
    center = np.round(np.where(np.isfinite(uv), uv, -1)).clip(-1, max(camera.width, camera.height))
    u, v = center[..., 0], center[..., 1]
    usable = visible & (u >= 0) & (v >= 0) & (u < camera.width) & (v < camera.height)
    z = np.full(usable.shape, np.nan, np.float32)
    # All people at once: one numpy call for each of 340 joints takes longer than the network's
    # head.
    windows = _windows(depth_m, center[usable].astype(np.intp), _steps_px(uv)[usable])
    z[usable] = _near_depth_m(windows)
    return _back_project(uv, z, camera)


def joints_on_plane(poses: Poses, camera: Camera, distance_m: float) -> Float:
    """
    Project all joints onto a plane in front of the camera, for people without metric depth.

    :returns: (P, 17, 3) float32, metres in the optical frame; NaN for joints not detected.
    """
    uv, _ = _joints(poses)
    return _back_project(uv, np.full(uv.shape[:2], distance_m, np.float32), camera)


def _joints(poses: Poses) -> tuple[Float, NDArray[np.bool_]]:
    """Return u and v of all joints, (P, 17, 2), and which are visible, (P, 17)."""
    if not poses.people:
        count = poses.joint_count
        return np.empty((0, count, 2), np.float32), np.empty((0, count), np.bool_)
    uv = np.stack([person.joints[:, :2] for person in poses.people])
    return uv, np.stack([person.visible for person in poses.people])


def _steps_px(uv: Float) -> NDArray[np.intp]:
    """Return the spacing of the depth samples around each joint, (P, 17), from people's sizes."""
    detected = np.isfinite(uv)
    low = np.where(detected, uv, np.inf).min(1)
    high = np.where(detected, uv, -np.inf).max(1)
    size_px = np.where(detected.any(1), high - low, 0).max(-1)
    steps_px = (size_px / _PERSON_PX_PER_STEP).round().clip(1, 8)
    return np.broadcast_to(steps_px[:, None], uv.shape[:2]).astype(np.intp)


def _windows(depth_m: Float, center: NDArray[np.intp], step_px: NDArray[np.intp]) -> Float:
    """Return the depth samples around (N, 2) pixels, (N, 49); NaN where unknown or outside."""
    height, width = depth_m.shape
    offsets = step_px[:, None] * _GRID
    columns = (center[:, :1] + offsets)[:, None, :]
    rows = (center[:, 1:] + offsets)[:, :, None]
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    values = depth_m[rows.clip(0, height - 1), columns.clip(0, width - 1)]
    samples = np.where(inside & np.isfinite(values), values, np.float32(np.nan))
    return samples.reshape(-1, _GRID.size**2)


def _near_depth_m(windows: Float) -> Float:
    """Return the depth of the near surface in each window, (N, 49) -> (N,); else NaN."""
    ordered = np.sort(windows, axis=1)  # NaN comes last
    rows = np.arange(len(ordered))
    finite = np.isfinite(ordered).sum(1)
    # The 10 % quantile, not the minimum: single pixels at an edge are often too near.
    near = ordered[rows, finite // 10]
    limit = near + np.maximum(_SURFACE_THICKNESS_M, _SURFACE_THICKNESS * near)
    on_surface = (ordered <= limit[:, None]).sum(1)
    depth_m = ordered[rows, np.maximum(on_surface - 1, 0) // 2]
    valid = (finite >= _MIN_FINITE * windows.shape[1]) & (on_surface >= _MIN_NEAR * finite)
    return np.where(valid, depth_m, np.float32(np.nan))


def _back_project(uv: Float, z: Float, camera: Camera) -> Float:
    """Return the points of (..., 2) pixels at a depth of (...) metres, (..., 3)."""
    x, y = ray_slopes(uv[..., 0], uv[..., 1], camera)
    points = np.stack([x * z, y * z, z], axis=-1)
    points[np.isnan(points).any(-1)] = np.nan
    return points
