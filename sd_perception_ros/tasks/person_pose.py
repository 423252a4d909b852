"""Human pose of one person in a crop: a heat map for each joint (SDPose, arXiv 2509.24980)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray
import torch
from torch import Tensor
import torch.nn.functional as F

from sd_perception_ros.config import check, option
from sd_perception_ros.skeleton import JOINTS, MIRRORED, WHOLE_BODY_MIRRORED
from sd_perception_ros.tasks.losses import masked_mean
from sd_perception_ros.tasks.pose_task import PoseTask
from sd_perception_ros.types import Float, Grid, Person, Poses, Sample

# Skeleton: index of the counterpart of each joint in a mirrored image.
SKELETONS = {'coco': MIRRORED, 'coco_wholebody': WHOLE_BODY_MIRRORED}
CELL_PX = 4  # pixels of the crop in a cell of the heat maps
# DARK (arXiv 1910.06278): width of the blur, cells, and the range of heat before the logarithm.
_BLUR_CELLS, _BLUR_REACH = 2.0, 5
_LEAST_HEAT, _MOST_HEAT = 1e-3, 50.0


@dataclass(frozen=True)
class PersonPose(PoseTask):
    """
    Heat maps of the joints of one person, who fills the image: a crop of 3:4.

    Cells and pixels correspond without bias (UDP, arXiv 1911.07524): the centre of the first cell
    lies on that of the first pixel, and the last on the last.
    """

    reads_crops: ClassVar[bool] = True
    meaning: ClassVar[tuple[str, ...]] = ('skeleton',)

    skeleton: str = option(
        'coco',
        'coco: 17 joints; coco_wholebody: 133 points of body, feet, face and hands',
        choices=tuple(SKELETONS),
    )
    crop_height_px: int = option(
        1024,
        'Height of the crop that the network was trained for; its width is three quarters',
        low=32,
        high=4096,
    )
    sigma_cells: float = option(2.0, 'Width of a peak in the heat maps, cells', low=0.5, high=8.0)
    min_peak: float = option(
        0.05, 'Joints whose heat map stays below this are not detected', low=0, high=1
    )
    min_score: float = option(
        0.3, 'Joints with a lower score are not marked as visible', low=0, high=1
    )

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        check(self)

    @property
    def channels(self) -> int:
        """One for each joint."""
        return len(SKELETONS[self.skeleton])

    def target(self, sample: Sample) -> tuple[Tensor, Tensor]:
        """
        Draw a Gaussian for each joint of the first person, on cells of 4 pixels.

        Joints that are not annotated do not count, nor do those beyond the 17 of the body, which
        data sets do not have; a joint outside the crop is a map of zeros.
        """
        reference = next(value for key, value in sample.items() if key != 'joints')
        height, width = reference.shape[-2:]
        rows, columns = -(-height // CELL_PX), -(-width // CELL_PX)
        person = sample['joints'][:, 0]
        beyond = person.new_zeros(len(person), self.channels - len(JOINTS), 3)
        person = torch.cat([person, beyond], 1)
        x = person[..., 0] * (columns - 1) / (width - 1)
        y = person[..., 1] * (rows - 1) / (height - 1)
        across, down = (
            (
                -(torch.arange(count, device=person.device) - place[..., None]).square()
                / (2 * self.sigma_cells**2)
            ).exp()
            for count, place in ((columns, x), (rows, y))
        )
        labelled = (person[..., 2] > 0)[..., None, None]
        target = across[..., None, :] * down[..., None] * labelled
        return target, (person[..., 2] != 0)[..., None, None].expand_as(target)

    def loss(self, raw: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """Return the squared error, weighted so that peaks count as much as the rest."""
        return masked_mean((raw - target).square() * (1 + 20 * target), valid)

    def decode(self, raw: Tensor, grid: Grid | None = None) -> Poses:
        """Take the highest point of each heat map: one person, or none without any joint."""
        rows, columns = raw.shape[-2:]
        if grid is None:
            grid = Grid(rows * CELL_PX, columns * CELL_PX, CELL_PX, CELL_PX)
        joints = decode_heat_maps(raw, grid.width - 1, grid.height - 1)
        joints[joints[:, 2] <= self.min_peak] = np.nan, np.nan, 0
        found = joints[:, 2] > 0
        if not found.any():
            return Poses((), grid.height, grid.width, self.channels)
        np.minimum(joints[:, 2], 1, out=joints[:, 2])
        score = float(joints[found, 2].mean())
        person = Person(joints, joints[:, 2] >= self.min_score, score)
        return Poses((person,), grid.height, grid.width, self.channels)

    def unmirrored(self, raw: Tensor) -> Tensor:
        """Mirror the heat maps back, and exchange those of left and right joints."""
        return raw.flip(-1)[..., list(SKELETONS[self.skeleton]), :, :]


def decode_heat_maps(maps: Tensor, width: float, height: float) -> Float:
    """
    Find the highest point of each heat map between its cells (DARK, arXiv 1910.06278).

    Around its maximum, the logarithm of a blurred map is approximated by a parabola: one Newton
    step leads from the highest cell to its top.

    :param maps: (K, h, w) float32 on any device.
    :param width: x of the centre of the last column; that of the first is 0.
    :param height: y of the centre of the last row.
    :returns: (K, 3) float32: x, y and the value of the maximum; NaN, NaN, 0 for a map without a
        value above 0.
    """
    count, rows, columns = maps.shape
    scores, at = maps.flatten(1).max(1)
    blurred = _blurred(maps)
    scale = scores / blurred.amax((1, 2)).clamp(min=1e-12)
    # The 3 x 3 cells around each maximum; edges are replicated.
    steps = torch.arange(-1, 2, device=maps.device)
    row = (at // columns)[:, None] + steps
    column = (at % columns)[:, None] + steps
    row, column = row.clamp(0, rows - 1), column.clamp(0, columns - 1)
    joint = torch.arange(count, device=maps.device)[:, None, None]
    window = blurred[joint, row[:, :, None], column[:, None, :]] * scale[:, None, None]
    window = window.clamp(_LEAST_HEAT, _MOST_HEAT).log()
    values = torch.cat([window.flatten(1), scores[:, None], at[:, None].to(window.dtype)], 1)
    found = values.double().cpu().numpy()
    step = _newton_step(found[:, :9].reshape(-1, 3, 3))
    place = np.stack([found[:, 10] % columns, found[:, 10] // columns], 1) + step
    place *= np.array([width / max(columns - 1, 1), height / max(rows - 1, 1)])
    joints: Float = np.concatenate([place, found[:, 9:10]], 1).astype(np.float32)
    joints[joints[:, 2] <= 0] = np.nan, np.nan, 0
    return joints


def _blurred(maps: Tensor) -> Tensor:
    """Blur (K, h, w) maps, with zeros outside."""
    size = (2 * _BLUR_REACH + 1,) * 2
    if maps.device.type == 'cpu':  # 17 maps: 3 ms instead of 200
        planes = [
            cv2.GaussianBlur(plane, size, _BLUR_CELLS, borderType=cv2.BORDER_CONSTANT)
            for plane in maps.contiguous().numpy()
        ]
        return torch.from_numpy(np.stack(planes))
    reach = torch.arange(-_BLUR_REACH, _BLUR_REACH + 1, device=maps.device, dtype=maps.dtype)
    kernel = (-reach.square() / (2 * _BLUR_CELLS**2)).exp()
    kernel = (kernel / kernel.sum())[None, None]
    along_x = F.conv2d(maps[:, None], kernel[:, :, None], padding=(0, _BLUR_REACH))
    return F.conv2d(along_x, kernel[..., None], padding=(_BLUR_REACH, 0))[:, 0]


def _newton_step(window: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (x, y) from the middle of 3 x 3 values to the top of their parabola, (K, 2)."""
    middle = window[:, 1, 1]
    left, right, above, below = (
        window[:, 1, 0],
        window[:, 1, 2],
        window[:, 0, 1],
        window[:, 2, 1],
    )
    slope_x, slope_y = (right - left) / 2, (below - above) / 2
    bend_x, bend_y = right - 2 * middle + left, below - 2 * middle + above
    corners = window[:, 2, 2] + window[:, 0, 0]
    twist = (corners - right - left - above - below + 2 * middle) / 2
    determinant = bend_x * bend_y - twist**2
    flat = np.abs(determinant) < 1e-12
    safe = np.where(flat, 1, determinant)
    step_x = (twist * slope_y - bend_y * slope_x) / safe
    step_y = (twist * slope_x - bend_x * slope_y) / safe
    step: NDArray[np.float64] = np.stack([step_x, step_y], 1)
    step[flat] = 0
    return step
