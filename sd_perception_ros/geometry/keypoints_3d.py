"""From joints in a picture to joints in space."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sd_perception_ros.geometry.pinhole import ray_slopes
from sd_perception_ros.types import Camera, Float, Poses

# Depth is read at 7 x 7 pixels around a joint, farther apart the taller the person is: a person
# 300 px tall is read in windows of 13 px, about as wide as an arm.
_GRID = np.arange(-3, 4)
_PERSON_PX_PER_STEP = 150.0
# Depths this far behind the nearest ones are another surface: metres, and as a share of the depth.
_SAME_SURFACE_M, _SAME_SURFACE = 0.15, 0.08
# The least shares of a window with a depth, and of those on the near surface.
_LEAST_FINITE, _LEAST_NEAR = 1 / 2, 1 / 3


def lift_joints(poses: Poses, depth_m: Float, camera: Camera) -> Float:
    """
    Give the joints of all people in the camera optical frame (x right, y down, z forward).

    A person stands in front of what is behind, so the depth of a joint is the median of the near
    surface in a window around it. One that is hidden would get the depth of what hides it: it
    stays unknown, as do one outside the picture, one with less than half of its window known,
    and one whose window shows a slope instead of a surface.

    :param poses: P people in pixels of the camera's picture.
    :param depth_m: (H, W) float32, metres along +z; NaN or infinite where unknown.
    :param camera: intrinsics of this same (H, W) grid.
    :returns: (P, 17, 3) float32, metres; three NaN where unsure.
    :raises ValueError: depth map, poses and camera are of different picture sizes.
    """
    sizes = {depth_m.shape, (poses.height, poses.width), (camera.height, camera.width)}
    if len(sizes) > 1:
        raise ValueError(
            'depth map, poses and camera must be of one picture (height, width), got '
            f'{depth_m.shape}, {(poses.height, poses.width)} and {(camera.height, camera.width)}'
        )
    uv, visible = _joints(poses)
    center = np.round(np.where(np.isfinite(uv), uv, -1)).clip(-1, max(camera.width, camera.height))
    u, v = center[..., 0], center[..., 1]
    sure = visible & (u >= 0) & (v >= 0) & (u < camera.width) & (v < camera.height)
    z = np.full(sure.shape, np.nan, np.float32)
    # All people at once: one numpy call for each of 340 joints takes longer than the network's
    # head.
    windows = _windows(depth_m, center[sure].astype(np.intp), _steps_px(uv)[sure])
    z[sure] = _near_depth_m(windows)
    return _along_rays(uv, camera, z)


def place_joints(poses: Poses, camera: Camera, distance_m: float) -> Float:
    """
    Put the joints of all people on a plane in front of the camera, where their depth is unknown.

    :returns: (P, 17, 3) float32, metres in the optical frame; NaN where a joint was not found.
    """
    uv, _ = _joints(poses)
    return _along_rays(uv, camera, np.full(uv.shape[:2], distance_m, np.float32))


def _joints(poses: Poses) -> tuple[Float, NDArray[np.bool_]]:
    """Return u and v, (P, 17, 2), and which joints are seen, (P, 17)."""
    if not poses.people:
        count = poses.joint_count
        return np.empty((0, count, 2), np.float32), np.empty((0, count), np.bool_)
    uv = np.stack([person.joints[:, :2] for person in poses.people])
    return uv, np.stack([person.visible for person in poses.people])


def _steps_px(uv: Float) -> NDArray[np.intp]:
    """Return how far apart the depth around the joints of each person is read, (P, 17)."""
    found = np.isfinite(uv)
    low = np.where(found, uv, np.inf).min(1)
    high = np.where(found, uv, -np.inf).max(1)
    tall_px = np.where(found.any(1), high - low, 0).max(-1)
    steps_px = (tall_px / _PERSON_PX_PER_STEP).round().clip(1, 8)
    return np.broadcast_to(steps_px[:, None], uv.shape[:2]).astype(np.intp)


def _windows(depth_m: Float, center: NDArray[np.intp], step_px: NDArray[np.intp]) -> Float:
    """Return the depth around (N, 2) pixels, (N, 49); NaN where unknown or outside."""
    height, width = depth_m.shape
    offsets = step_px[:, None] * _GRID
    columns = (center[:, :1] + offsets)[:, None, :]
    rows = (center[:, 1:] + offsets)[:, :, None]
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    values = depth_m[rows.clip(0, height - 1), columns.clip(0, width - 1)]
    known = np.where(inside & np.isfinite(values), values, np.float32(np.nan))
    return known.reshape(-1, _GRID.size**2)


def _near_depth_m(windows: Float) -> Float:
    """Return the depth of the near surface in each window, (N, 49) -> (N,); NaN where unsure."""
    ordered = np.sort(windows, axis=1)  # NaN comes last
    rows = np.arange(len(ordered))
    finite = np.isfinite(ordered).sum(1)
    # Not the very nearest: single pixels at an edge are often too near.
    near = ordered[rows, finite // 10]
    same = near + np.maximum(_SAME_SURFACE_M, _SAME_SURFACE * near)
    on_surface = (ordered <= same[:, None]).sum(1)
    depth_m = ordered[rows, np.maximum(on_surface - 1, 0) // 2]
    sure = (finite >= _LEAST_FINITE * windows.shape[1]) & (on_surface >= _LEAST_NEAR * finite)
    return np.where(sure, depth_m, np.float32(np.nan))


def _along_rays(uv: Float, camera: Camera, z: Float) -> Float:
    x, y = ray_slopes(uv[..., 0], uv[..., 1], camera)
    points = np.stack([x * z, y * z, z], axis=-1)
    points[np.isnan(points).any(-1)] = np.nan
    return points
