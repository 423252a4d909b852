"""Evaluation protocols of data sets: range of depth, and evaluated part of the images."""

from __future__ import annotations

from dataclasses import dataclass
import math

from sd_perception_ros.metrics.depth import RANGE_M
from sd_perception_ros.types import Sample


@dataclass(frozen=True)
class Protocol:
    """
    The evaluation protocol of one depth benchmark.

    :ivar near_m: ground truth at or below this is ignored; predicted depth is clipped to it.
    :ivar far_m: ground truth at or above this is ignored; predicted depth is clipped to it.
    :ivar frame: (height, width) of the crop at the bottom centre of every image, which the model
        then receives; None: the whole image.
    :ivar window: rows and columns (top, bottom, left, right) that are evaluated; None: all.
    :ivar size: (height, width) of the images for which the window is defined.
    """

    near_m: float = RANGE_M[0]
    far_m: float = RANGE_M[1]
    frame: tuple[int, int] | None = None
    window: tuple[int, int, int, int] | None = None
    size: tuple[int, int] | None = None

    def apply(self, sample: Sample) -> Sample:
        """
        Crop a sample, set depth outside the window to NaN, and add `range_m`.

        :raises ValueError: the image is smaller than the frame, or not of the window's size.
        """
        import torch  # not at the top: the command line needs the names of protocols without torch

        from sd_perception_ros.data.augment import crop

        height, width = sample['image'].shape[-2:]
        if self.frame:
            high, wide = self.frame
            if high > height or wide > width:
                raise ValueError(
                    f'this protocol crops {wide}x{high} from every image, got '
                    f'{width}x{height}; give it the original images'
                )
            sample = crop(sample, height - high, (width - wide) // 2, high, wide)
            height, width = high, wide
        if 'depth_m' not in sample:
            return sample
        range_m = torch.tensor([[self.near_m, self.far_m]])
        depth_m = sample['depth_m']
        if self.window:
            if self.size and (height, width) != self.size:
                raise ValueError(
                    f'this protocol evaluates a window of {self.size[1]}x{self.size[0]} images, '
                    f'got {width}x{height}; give it the original images'
                )
            top, bottom, left, right = self.window
            evaluated = torch.zeros(height, width, dtype=torch.bool)
            evaluated[top:bottom, left:right] = True
            depth_m = torch.where(evaluated, depth_m, torch.nan)
        return {**sample, 'depth_m': depth_m, 'range_m': range_m}


# Ranges and windows of Marigold's and GenPercept's evaluation. On KITTI the frame is that of its
# own depth benchmark, and the windows, shares of the frame, are those of Eigen et al.
# (arXiv 1406.2283) and of Garg et al. (arXiv 1603.04992).
_KITTI = (352, 1216)
PROTOCOLS = {
    'any': Protocol(),
    'nyu': Protocol(1e-3, 10.0, window=(45, 471, 41, 601), size=(480, 640)),
    'kitti': Protocol(1e-5, 80.0, frame=_KITTI, window=(117, 321, 43, 1172), size=_KITTI),
    'kitti_garg': Protocol(1e-5, 80.0, frame=_KITTI, window=(143, 349, 43, 1172), size=_KITTI),
    'scannet': Protocol(1e-3, 10.0),
    'eth3d': Protocol(1e-5, math.inf),
    'diode': Protocol(0.6, 350.0),
}
