"""Pictures of real lenses to those of a pinhole camera."""

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
    How a picture is distorted, and the pinhole camera that it is rectified to.

    :ivar model: plumb_bob, rational_polynomial or equidistant, as in sensor_msgs/CameraInfo.
    :ivar coefficients: of the model, in ROS's order, which is OpenCV's.
    :ivar raw: intrinsics of the distorted picture.
    :ivar straight: those of the rectified picture, of the same size.
    :ivar rotation: R of CameraInfo, 9 numbers row by row: from the raw camera's frame to the
        rectified one's.
    """

    model: str
    coefficients: tuple[float, ...]
    raw: Camera
    straight: Camera
    rotation: tuple[float, ...] = _IDENTITY

    def rectify(self, rgb: UInt8) -> UInt8:
        """
        Return the picture that the pinhole camera would see; black where the lens saw nothing.

        :param rgb: (H, W, 3).
        """
        return np.asarray(cv2.remap(rgb, *self._maps, cv2.INTER_LINEAR), np.uint8)

    @cached_property
    def _maps(self) -> tuple[Float, Float]:
        """Where each rectified pixel lies in the raw picture: u and v, (H, W) each."""
        size = (self.straight.width, self.straight.height)
        matrices = _matrix(self.raw), _matrix(self.straight)
        rotation = np.array(self.rotation, np.float64).reshape(3, 3)
        if self.model == 'equidistant':
            coefficients = np.array((*self.coefficients, 0, 0, 0, 0)[:4], np.float64)
            u, v = cv2.fisheye.initUndistortRectifyMap(
                matrices[0], coefficients, rotation, matrices[1], size, cv2.CV_32FC1
            )
        else:
            coefficients = np.array(self.coefficients or (0.0,) * 5, np.float64)
            u, v = cv2.initUndistortRectifyMap(
                matrices[0], coefficients, rotation, matrices[1], size, cv2.CV_32FC1
            )
        return np.asarray(u, np.float32), np.asarray(v, np.float32)


def _matrix(camera: Camera) -> NDArray[np.float64]:
    return np.array([[camera.fx, 0, camera.cx], [0, camera.fy, camera.cy], [0, 0, 1]])
