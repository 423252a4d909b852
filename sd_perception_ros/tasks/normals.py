"""Surface normals: unit vectors in the camera optical frame that face the camera."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sd_perception_ros.config import check, option
from sd_perception_ros.images import to_numpy
from sd_perception_ros.metrics.normals import angle_counts, angle_summary, angles_deg
from sd_perception_ros.tasks.losses import angular_loss
from sd_perception_ros.tasks.task import Task
from sd_perception_ros.types import Float, Grid, NormalMap, Sample

# Rows give red, green, blue from (x, y, z, 1); no sum is negative, so taking it as 8-bit is safe.
TO_LEVELS = np.array([[127, 0, 0, 128], [0, -127, 0, 128], [0, 0, -127, 128]], np.float32)


@dataclass(frozen=True)
class Normals(Task):
    """Surface normals; the signs translate a checkpoint's axes to x right, y down, z forward."""

    name: ClassVar[str] = 'normals'
    truth: ClassVar[str] = 'normals'
    meaning: ClassVar[tuple[str, ...]] = ('x_sign', 'y_sign', 'z_sign')
    headline: ClassVar[str] = 'mean_deg'

    x_sign: int = option(1, "1, or -1 where the checkpoint's x points left", low=-1, high=1)
    y_sign: int = option(1, "1, or -1 where the checkpoint's y points up", low=-1, high=1)
    z_sign: int = option(1, "1, or -1 where the checkpoint's z points backwards", low=-1, high=1)

    def __post_init__(self) -> None:
        """Check that signs are 1 or -1."""
        check(self)
        if 0 in self._signs():
            raise ValueError(f'x_sign, y_sign and z_sign are 1 or -1, got {self._signs()}')

    @property
    def channels(self) -> int:
        """x, y and z."""
        return 3

    def target(self, sample: Sample) -> tuple[Tensor, Tensor]:
        """Return unit vectors in the checkpoint's axes; unknown normals do not count."""
        normals = sample['normals']
        signs = normals.new_tensor(self._signs()).view(1, 3, 1, 1)
        return normals * signs, normals.square().sum(1, keepdim=True) > 0.25

    def loss(self, raw: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """Mean angle to the target over valid pixels, radians."""
        return angular_loss(raw, target, valid)

    def decode(self, raw: Tensor, grid: Grid | None = None) -> NormalMap:
        """Normalise, and convert the axes of the checkpoint to the optical frame."""
        signs = self._signs()
        return NormalMap(_units_on_device(raw, signs) if raw.is_cuda else _units(raw, signs))

    def measure(self, prediction: NormalMap, sample: Sample) -> NDArray[np.float32]:
        """Return the histogram of the angular errors of valid pixels."""
        normals = sample['normals'][0].permute(1, 2, 0).numpy()
        valid = np.linalg.norm(normals, axis=-1) > 0.5
        return angle_counts(angles_deg(prediction.values[valid], normals[valid]))

    def summarize(self, measured: Sequence[NDArray[np.float32]]) -> dict[str, float]:
        """Pool the pixels of all images."""
        return angle_summary(measured)

    def colorize(self, prediction: NormalMap) -> NDArray[np.uint8]:
        """Right is red, up is green, towards the camera is blue: the colours of most papers."""
        levels = cv2.convertScaleAbs(cv2.transform(prediction.values, TO_LEVELS))
        return np.asarray(levels, np.uint8)

    def _signs(self) -> tuple[int, int, int]:
        return self.x_sign, self.y_sign, self.z_sign


def _units(raw: Tensor, signs: Sequence[int]) -> Float:
    """Normalise plane by plane in OpenCV: 0.8 instead of 2.1 ms at VGA."""
    planes = list(raw.contiguous().numpy())
    length = cv2.sqrt(sum(cv2.multiply(plane, plane) for plane in planes))
    np.maximum(length, 1e-12, out=length)
    units = [cv2.divide(plane, length, scale=s) for plane, s in zip(planes, signs, strict=True)]
    return np.asarray(cv2.merge(units), np.float32)


def _units_on_device(raw: Tensor, signs: Sequence[int]) -> Float:
    factor = raw.new_tensor(signs).view(3, 1, 1) / raw.norm(dim=0).clamp(min=1e-12)
    return to_numpy((raw * factor).permute(1, 2, 0).contiguous())
