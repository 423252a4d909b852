"""Rectification: images of a distorting lens to images of a pinhole camera."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from sd_perception_ros.types import Camera, Float, UInt8

_IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


@dataclass(frozen=True)
class Lens:
    """
    Distortion of an image, and the pinhole camera of the rectified image.

    :ivar model: plumb_bob, rational_polynomial or equidistant, as in sensor_msgs/CameraInfo.
    :ivar coefficients: D of CameraInfo; ROS and OpenCV use the same order.
    :ivar raw: intrinsics of the distorted image.
    :ivar rectified: intrinsics of the rectified image, of the same size.
    :ivar rotation: R of CameraInfo, 9 numbers row by row: from the frame of the raw camera to that
        of the rectified one.
    """

    model: str
    coefficients: tuple[float, ...]
    raw: Camera
    rectified: Camera
    rotation: tuple[float, ...] = _IDENTITY

    def rectify(self, rgb: UInt8) -> UInt8:
        """
        Return the rectified image; black where the raw image has no pixel.

        :param rgb: (H, W, 3).
        """
        return np.asarray(cv2.remap(rgb, *self._maps, cv2.INTER_LINEAR), np.uint8)

    @cached_property
    def seen(self) -> float:
        """Share of the rectified image that the raw image has pixels for."""
        u, v = self._maps
        inside = (u > -1) & (u < self.raw.width) & (v > -1) & (v < self.raw.height)
        return float(inside.mean())

    @cached_property
    def _maps(self) -> tuple[Float, Float]:
        """Position of each rectified pixel in the raw image: u and v, (H, W) each."""
        size = (self.rectified.width, self.rectified.height)
        raw_matrix, rectified_matrix = _matrix(self.raw), _matrix(self.rectified)
        rotation = np.array(self.rotation, np.float64).reshape(3, 3)
        if self.model == 'equidistant':
            coefficients = np.array((*self.coefficients, 0, 0, 0, 0)[:4], np.float64)
            u, v = cv2.fisheye.initUndistortRectifyMap(
                raw_matrix, coefficients, rotation, rectified_matrix, size, cv2.CV_32FC1
            )
        else:
            coefficients = np.array(self.coefficients or (0.0,) * 5, np.float64)
            u, v = cv2.initUndistortRectifyMap(
                raw_matrix, coefficients, rotation, rectified_matrix, size, cv2.CV_32FC1
            )
        return np.asarray(u, np.float32), np.asarray(v, np.float32)


def _matrix(camera: Camera) -> NDArray[np.float64]:
    """Return the intrinsic matrix K, (3, 3)."""
    return np.array([[camera.fx, 0, camera.cx], [0, camera.fy, camera.cy], [0, 0, 1]])
