"""Segmentation painted as a picture: each class has a colour, and the nearest one wins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
import torch
from torch import Tensor

from sd_perception_ros.config import check, option
from sd_perception_ros.losses import masked_mean
from sd_perception_ros.tasks.task import Task
from sd_perception_ros.types import LabelMap, Sample

# Default colours of the eight classes 0..7, far apart; a checkpoint brings its own palette.
EIGHT_COLORS = '000000 8c6d46 c8c8b4 5ac8fa ff7f0e d62728 2ca02c 9467bd'


@dataclass(frozen=True)
class Segmentation(Task):
    """Semantic classes as RGB colours, the way of the official segmentation checkpoint."""

    name: ClassVar[str] = 'segmentation'
    channels: ClassVar[int] = 3
    truth: ClassVar[str] = 'labels'

    palette: str = option(EIGHT_COLORS, "RGB colours of classes 0, 1, ... as 'rrggbb rrggbb'")

    def __post_init__(self) -> None:
        """Refuse a palette that is not a list of hexadecimal colours."""
        check(self)
        try:
            colors = [bytes.fromhex(color) for color in self.palette.split()]
        except ValueError:
            colors = []
        if not 1 < len(colors) <= 256 or any(len(color) != 3 for color in colors):
            raise ValueError(
                "palette must be 2 to 256 colours such as 'ff0000 00ff00', "
                f"got '{self.palette[:40]}'"
            )

    def target(self, sample: Sample) -> tuple[Tensor, Tensor]:
        """Return each pixel's class colour in -1..1; ids outside the palette do not count."""
        labels = sample['labels'][:, 0].long()
        colors = self._colors().to(labels.device)
        valid = (labels >= 0) & (labels < len(colors))
        painted = colors[labels.clamp(0, len(colors) - 1)].permute(0, 3, 1, 2)
        return painted, valid[:, None]

    def loss(self, raw: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """Mean squared error of the colours."""
        return masked_mean((raw - target).square(), valid)

    def decode(self, raw: Tensor) -> LabelMap:
        """
        Return the class of the nearest colour.

        Confidence is 1 on the colour itself and falls to 0 halfway to the next nearest one.
        """
        colors = self._colors()
        nearest = torch.full(raw.shape[1:], torch.inf)
        second = nearest.clone()
        labels = torch.zeros(raw.shape[1:], dtype=torch.uint8)
        for index, color in enumerate(colors):  # one class at a time: 40 full maps are large
            distance = (raw - color.view(3, 1, 1)).norm(dim=0)
            closer = distance < nearest
            second = torch.where(closer, nearest, torch.minimum(second, distance))
            nearest = torch.where(closer, distance, nearest)
            labels[closer] = index
        confidence = 1 - 2 * nearest / (nearest + second).clamp(min=1e-6)
        return LabelMap(labels.numpy(), confidence.clamp(0, 1).numpy())

    def measure(self, prediction: LabelMap, sample: Sample) -> NDArray[np.float32]:
        """Return the confusion counts of one image, (classes, classes): row truth."""
        count = len(self.palette.split())
        labels = sample['labels'][0, 0].numpy().astype(np.int64)
        valid = (labels >= 0) & (labels < count)
        pairs = labels[valid] * count + prediction.labels[valid]
        counts = np.bincount(pairs, minlength=count * count).reshape(count, count)
        return counts.astype(np.float32)

    def summarize(self, measured: Sequence[NDArray[np.float32]]) -> dict[str, float]:
        """Return the mean intersection over union of the classes that occur, and accuracy."""
        counts = np.sum(np.stack(measured), 0, dtype=np.float64)
        right = np.diag(counts)
        union = counts.sum(0) + counts.sum(1) - right
        present = counts.sum(1) > 0
        return {
            'mean_iou': float((right[present] / union[present]).mean()),
            'accuracy': float(right.sum() / counts.sum()),
        }

    def colorize(self, prediction: LabelMap) -> NDArray[np.uint8]:
        """Paint each class in its colour."""
        colors = ((self._colors() + 1) / 2 * 255).round().to(torch.uint8).numpy()
        painted: NDArray[np.uint8] = colors[prediction.labels]
        return painted

    def _colors(self) -> Tensor:
        """(N, 3) in -1..1."""
        levels = [list(bytes.fromhex(color)) for color in self.palette.split()]
        return torch.tensor(levels, dtype=torch.float32) / 255 * 2 - 1
