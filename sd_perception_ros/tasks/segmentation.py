"""Semantic classes: a score for each class or, as in official checkpoints, class colours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray
import torch
from torch import Tensor
import torch.nn.functional as F

from sd_perception_ros.config import check, option
from sd_perception_ros.images import to_numpy
from sd_perception_ros.metrics.segmentation import confusion, confusion_summary
from sd_perception_ros.tasks.losses import masked_mean
from sd_perception_ros.tasks.task import Task
from sd_perception_ros.types import Grid, LabelMap, Sample

# The classes of the synthetic rooms, in distinct colours; a checkpoint may have other ones.
ROOM_CLASSES = ['sky', 'floor', 'wall', 'ceiling', 'furniture', 'person', 'other']
EIGHT_COLORS = '5ac8fa 8c6d46 c8c8b4 9467bd ff7f0e d62728 2ca02c 000000'


@dataclass(frozen=True)
class Segmentation(Task):
    """
    One class for each pixel.

    `logits` has a channel for each class. `palette` is that of the official seg
    checkpoint: three channels; the class with the nearest colour is chosen.
    """

    name: ClassVar[str] = 'segmentation'
    truth: ClassVar[str] = 'labels'
    meaning: ClassVar[tuple[str, ...]] = ('readout', 'class_names', 'palette')
    headline: ClassVar[str] = 'mean_iou'
    higher_is_better: ClassVar[bool] = True

    readout: str = option(
        'logits', 'logits: a score for each class; palette: colours', choices=('logits', 'palette')
    )
    classes: list[str] = option(
        ROOM_CLASSES, 'Names of classes 0, 1, ...; empty: numbers, one for each colour'
    )
    palette: str = option(EIGHT_COLORS, "RGB colours of classes 0, 1, ... as 'rrggbb rrggbb'")

    def __post_init__(self) -> None:
        """Refuse a palette that is not a list of colours, or has too few of them."""
        check(self)
        try:
            colors = [bytes.fromhex(color) for color in self.palette.split()]
        except ValueError:
            colors = []
        if not 1 < len(colors) <= 255 or any(len(color) != 3 for color in colors):
            raise ValueError(
                "palette must be 2 to 255 colours such as 'ff0000 00ff00', "
                f"got '{self.palette[:40]}'"
            )
        if len(self.classes) == 1 or len(self.classes) > len(colors):
            raise ValueError(
                f'classes must be 2 to {len(colors)} names, one for each colour of the palette, '
                f'got {len(self.classes)}'
            )

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of classes 0, 1, ..."""
        return tuple(self.classes or map(str, range(len(self.palette.split()))))

    @property
    def channels(self) -> int:
        """One for each class, or red, green and blue."""
        return len(self.class_names) if self.readout == 'logits' else 3

    def target(self, sample: Sample) -> tuple[Tensor, Tensor]:
        """Return 8 for a pixel's class and -8 for others, or its class's colour in -1..1."""
        labels = sample['labels'][:, 0].long()
        count = len(self.class_names)
        known = labels.clamp(0, count - 1)
        valid = (labels >= 0) & (labels < count)
        if self.readout == 'palette':
            return self._colors().to(labels.device)[known].permute(0, 3, 1, 2), valid[:, None]
        target = F.one_hot(known, count).permute(0, 3, 1, 2).float() * 16 - 8
        return target, valid[:, None]

    def loss(self, raw: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """Cross-entropy of the classes, or mean squared error of the colours."""
        if self.readout == 'palette':
            return masked_mean((raw - target).square(), valid)
        return masked_mean(
            F.cross_entropy(raw, target.argmax(1), reduction='none')[:, None], valid
        )

    def decode(self, raw: Tensor, grid: Grid | None = None) -> LabelMap:
        """
        Return the class of the highest score or of the nearest colour.

        Confidence is the probability of the class; with a palette it is 1 at its colour and falls
        to 0 halfway to the second nearest colour.
        """
        if self.readout == 'palette':
            return self._nearest(raw)
        return _scores_on_device(raw) if raw.is_cuda else _scores(raw)

    def measure(self, prediction: LabelMap, sample: Sample) -> NDArray[np.float32]:
        """Return the confusion counts of one image, (classes, classes): row truth."""
        labels = sample['labels'][0, 0].numpy().astype(np.int64)
        return confusion(labels, prediction.labels, len(self.class_names))

    def summarize(self, measured: Sequence[NDArray[np.float32]]) -> dict[str, float]:
        """Return mean intersection over union of the classes that occur, accuracy, and each."""
        return confusion_summary(measured, self.class_names)

    def colorize(self, prediction: LabelMap) -> NDArray[np.uint8]:
        """Paint each class in its colour."""
        colors = ((self._colors() + 1) / 2 * 255).round().to(torch.uint8).numpy()
        table = np.zeros((256, 1, 3), np.uint8)
        table[: len(colors), 0] = colors
        return np.asarray(cv2.LUT(cv2.merge([prediction.labels] * 3), table), np.uint8)

    def _nearest(self, raw: Tensor) -> LabelMap:
        nearest = torch.full_like(raw[0], torch.inf)
        second = nearest.clone()
        labels = torch.zeros_like(raw[0], dtype=torch.uint8)
        for index, color in enumerate(
            self._colors().to(raw.device)
        ):  # one at a time: 40 full maps need much memory
            distance = (raw - color.view(3, 1, 1)).norm(dim=0)
            closer = distance < nearest
            second = torch.where(closer, nearest, torch.minimum(second, distance))
            nearest = torch.where(closer, distance, nearest)
            labels.masked_fill_(closer, index)
        confidence = 1 - 2 * nearest / (nearest + second).clamp(min=1e-6)
        return LabelMap(to_numpy(labels), to_numpy(confidence.clamp(0, 1)))

    def _colors(self) -> Tensor:
        """(N, 3) in -1..1, one for each class."""
        levels = [list(bytes.fromhex(color)) for color in self.palette.split()]
        return torch.tensor(levels[: len(self.class_names)], dtype=torch.float32) / 255 * 2 - 1


def _scores(raw: Tensor) -> LabelMap:
    """Decode scores plane by plane in OpenCV: 1.8 ms at VGA instead of 5 ms with torch."""
    scores = raw.contiguous().numpy()
    highest = scores[0].copy()
    labels = np.zeros(highest.shape, np.uint8)
    for label, plane in enumerate(scores[1:], 1):
        higher = cv2.compare(plane, highest, cv2.CMP_GT)  # of equal scores, the first class
        cv2.max(plane, highest, highest)
        cv2.copyTo(np.full_like(labels, label), higher, labels)
    total = np.zeros_like(highest)
    for plane in scores:
        cv2.add(total, cv2.exp(cv2.subtract(plane, highest)), total)
    return LabelMap(labels, np.asarray(cv2.divide(1.0, total), np.float32))


def _scores_on_device(raw: Tensor) -> LabelMap:
    """Decode scores on the device, to copy two planes to the CPU instead of one per class."""
    highest, labels = raw.max(0)
    confidence = (raw - highest).exp_().sum(0).reciprocal_()
    return LabelMap(to_numpy(labels.byte()), to_numpy(confidence))
