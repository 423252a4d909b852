"""Human pose: all people of an image from one pass, without a person detector."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sd_perception_ros.config import check, option
from sd_perception_ros.images import to_numpy
from sd_perception_ros.skeleton import JOINTS, MIRRORED
from sd_perception_ros.tasks.losses import masked_mean
from sd_perception_ros.tasks.peaks import centres, find_people
from sd_perception_ros.tasks.pose_task import PoseTask
from sd_perception_ros.types import Grid, Poses, Sample

COUNT = len(JOINTS)
CENTRE = COUNT  # channels: a heat map for each joint, one of centres, x and y of each offset
# Pixels of the training image per cell of the target: the resolution of the light head at
# stride 8.
CELL_PX = 2
OFFSET_CELLS = 16.0  # an offset of 1 in the target
AROUND_CENTRE = 0.1  # offsets are learned where the centre's heat is more than this: 4 cells
MAX_OUTSIDE = 0.25  # joints outside are clipped to this distance from the edge, in image sizes


@dataclass(frozen=True)
class HumanPose(PoseTask):
    """
    Joint heat maps, person centres, and offsets from a centre to each joint.

    As in CenterNet (arXiv 1904.07850), with 17 + 1 + 34 channels: centres separate people, offsets
    locate joints roughly, including hidden ones, and the heat map of a joint locates it exactly if
    it is visible. The centre is the mean of the joints of a person in the image.
    """

    sigma_cells: float = option(2.0, 'Width of a peak in the heat maps, cells', low=0.5, high=8.0)
    min_score: float = option(0.3, 'Minimum heat of centres and joints', low=0, high=1)
    max_people: int = option(30, 'Maximum number of people per image', low=1, high=100)

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        check(self)

    @property
    def channels(self) -> int:
        """17 joints, one centre, 17 offsets in x and y."""
        return 3 * COUNT + 1

    def target(self, sample: Sample) -> tuple[Tensor, Tensor]:
        """
        Draw heat maps and offsets on cells of 2 pixels.

        Offsets are set around each centre, in units of 16 cells, NaN for unknown joints. Joints
        outside are clipped to a quarter of the image size. People without visible joints are
        left out.
        """
        reference = next(value for key, value in sample.items() if key != 'joints')
        height, width = (-(-side // CELL_PX) for side in reference.shape[-2:])
        target = self._draw(sample['joints'], height, width)
        valid = torch.ones_like(target[:, :1], dtype=torch.bool)
        if 'matte' in sample:  # unknown: there may be people
            valid = ~sample['matte'][..., ::CELL_PX, ::CELL_PX].isnan()
        return target, valid

    def _draw(self, people: Tensor, height: int, width: int) -> Tensor:
        """Draw the (B, P, 17, 3) people of each image: (B, channels, h, w)."""
        target = people.new_zeros(len(people), self.channels, height, width)
        heat = target[:, : CENTRE + 1]
        offsets = target[:, CENTRE + 1 :].view(-1, COUNT, 2, height, width)
        x = torch.arange(width, device=people.device, dtype=people.dtype)
        y = torch.arange(height, device=people.device, dtype=people.dtype)
        size = people.new_tensor([width, height])
        nearest = people.new_full((len(people), height, width), torch.inf)
        counts = (people[..., 2] > 1).any(2)
        for place in counts.any(0).nonzero()[:, 0].tolist():
            rows = counts[:, place].nonzero()[:, 0]  # images with a person of this index
            person = people[rows, place]
            labelled, seen = person[..., 2] > 0, person[..., 2] > 1
            cells = (person[..., :2] + 0.5) / CELL_PX - 0.5
            cells = cells.clamp(-MAX_OUTSIDE * size, (1 + MAX_OUTSIDE) * size)
            shares = labelled / labelled.sum(1, keepdim=True)
            middle = (cells * shares[..., None]).sum(1, keepdim=True)
            tops = torch.cat([cells, middle], 1)
            dx, dy = tops[..., 0, None] - x, tops[..., 1, None] - y
            drawn = torch.cat([seen, seen.any(1, keepdim=True)], 1)[..., None]
            # A 2D Gaussian is the product of one along x and one along y.
            across, down = ((-d.square() / (2 * self.sigma_cells**2)).exp() for d in (dx, dy))
            peaks = (across * drawn)[..., None, :] * down[..., None]
            heat[rows] = torch.maximum(heat[rows], peaks)
            squared = dx[:, CENTRE, None, :].square() + dy[:, CENTRE, :, None].square()
            closer = squared < nearest[rows]
            nearest[rows] = torch.where(closer, squared, nearest[rows])
            unknown = (person[..., 2] == 0)[..., None]
            along_x, along_y = (
                d[:, :COUNT].masked_fill(unknown, torch.nan) / OFFSET_CELLS for d in (dx, dy)
            )
            to_x = along_x[..., None, :].expand(-1, -1, height, -1)
            to_y = along_y[..., None].expand(-1, -1, -1, width)
            path = torch.stack([to_x, to_y], 2)
            offsets[rows] = torch.where(closer[:, None, None], path, offsets[rows])
        return target

    def loss(self, raw: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """
        Squared error of the heat, with peaks weighted like the rest, and error of the offsets.

        Offsets count where the target has a centre: absolute error, in units of 16 cells.
        """
        heat, truth = raw[:, : CENTRE + 1], target[:, : CENTRE + 1]
        weight = 1 + 20 * truth
        # Peaks cover about 1 % of the pixels of an image with people.
        error = masked_mean((heat - truth).square() * weight, valid) / 0.01
        offsets = target[:, CENTRE + 1 :]
        near = valid & (target[:, CENTRE : CENTRE + 1] > AROUND_CENTRE)
        known = near & ~offsets.isnan()
        # Zeros instead of NaN before the absolute value: gradients are computed there, too.
        difference = torch.where(known, raw[:, CENTRE + 1 :] - offsets, 0)
        return 1.5 * error + 3 * masked_mean(difference.abs(), known)

    def decode(self, raw: Tensor, grid: Grid | None = None) -> Poses:
        """Find centres, follow their offsets, and take the peak of each joint nearby."""
        if grid is None:
            height, width = raw.shape[-2:]
            grid = Grid(height * CELL_PX, width * CELL_PX, CELL_PX, CELL_PX)
        maps = to_numpy(raw)
        heat = maps[: CENTRE + 1]
        scaled = (maps[CENTRE + 1 :] * OFFSET_CELLS).astype(np.float32, copy=False)
        offsets = scaled.reshape(COUNT, 2, *raw.shape[-2:])
        found = centres(heat[CENTRE], self.min_score, self.max_people)
        people = find_people(heat[:CENTRE], offsets, found, self.min_score, grid)
        return Poses(tuple(people), grid.height, grid.width)

    def unmirrored(self, raw: Tensor) -> Tensor:
        """Mirror the maps back, exchange left and right joints, and turn offsets along x."""
        back = raw.flip(-1)
        heat, centre = back[..., :CENTRE, :, :], back[..., CENTRE : CENTRE + 1, :, :]
        offsets = back[..., CENTRE + 1 :, :, :]
        pairs = [2 * joint + axis for joint in MIRRORED for axis in (0, 1)]
        signs = offsets.new_tensor([-1, 1] * COUNT)[:, None, None]
        offsets = offsets[..., pairs, :, :] * signs
        return torch.cat([heat[..., list(MIRRORED), :, :], centre, offsets], -3)
