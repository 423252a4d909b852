"""The interface of a task: target, loss, decoder and metrics, in one file for each task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sd_perception_ros.types import Grid, Prediction, Sample


@dataclass(frozen=True)
class Task(ABC):
    """
    One quantity that is predicted from an image.

    Targets and raw outputs of the network have the same space, so decoding the target of a sample
    scores perfectly. The fields of a subclass are its options in checkpoint.yaml.

    :cvar truth: name of the ground truth that the target is made from.
    :cvar headline: the metric by which images are ranked.
    :cvar higher_is_better: whether higher values of `headline` are better.
    :cvar dense: the raw output is resized to the image before it is decoded; otherwise `decode`
        gets the raw output of the head and its grid.
    :cvar reads_crops: the network reads a crop of one person instead of the image.
    :cvar meaning: options that define the meaning of the output: if they differ, training cannot
        continue from a trained head.
    """

    name: ClassVar[str]
    truth: ClassVar[str]
    headline: ClassVar[str]
    higher_is_better: ClassVar[bool] = False
    dense: ClassVar[bool] = True
    reads_crops: ClassVar[bool] = False
    meaning: ClassVar[tuple[str, ...]] = ()

    @property
    @abstractmethod
    def channels(self) -> int:
        """Channels of the target and of the raw output."""

    @abstractmethod
    def target(self, sample: Sample) -> tuple[Tensor, Tensor]:
        """
        Return what the head should output, (B, channels, h, w), and where, bool.

        The latter is (B, 1, h, w), or (B, channels, h, w) if channels are known by themselves.
        (h, w) is the size of the sample for a dense task.
        """

    @abstractmethod
    def loss(self, raw: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """Return the loss, a scalar; arguments (B, C, h, w) float32."""

    @abstractmethod
    def decode(self, raw: Tensor, grid: Grid | None = None) -> Prediction:
        """
        Convert a raw output, (channels, h, w) float32 on any device, to a prediction.

        :param grid: position of raw on the image; None: that of a target.
        """

    @abstractmethod
    def measure(self, prediction: Any, sample: Sample) -> Any:
        """
        Return the errors of one prediction, the input of `summarize`; a sample is a batch of one.

        The result is small: it is kept for every image, so that any selection of images can be
        summarized.
        """

    @abstractmethod
    def summarize(self, measured: Sequence[Any]) -> dict[str, float]:
        """
        Return the metrics of one or more images, from the results of `measure`.

        A metric that is undefined for these images is NaN, or left out.
        """

    @abstractmethod
    def colorize(self, prediction: Any) -> NDArray[np.uint8]:
        """Visualise a prediction, (H, W, 3) uint8 RGB."""
