"""What a task is: a target, a loss, a decoder and a measure, in one file for each task."""

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
    One quantity that is read from a picture.

    Targets and raw outputs of the network live in the same space, so decoding a sample's own
    target scores perfectly. The fields of a subclass are its options in checkpoint.yaml.

    :cvar truth: which of a data set's truths the target is made from.
    :cvar dense: whether the raw output is brought to the picture's size before it is decoded;
        otherwise it stays as the head gives it, and `decode` is told its grid.
    """

    name: ClassVar[str]
    truth: ClassVar[str]
    dense: ClassVar[bool] = True

    @property
    @abstractmethod
    def channels(self) -> int:
        """Channels of the target and of the raw output."""

    @abstractmethod
    def target(self, sample: Sample) -> tuple[Tensor, Tensor]:
        """
        Return what the head should output, (B, channels, h, w), and where, (B, 1, h, w) bool.

        (h, w) is the sample's size for a dense task.
        """

    @abstractmethod
    def loss(self, raw: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """Return one number that falls as raw nears target; all (B, C, h, w) float32."""

    @abstractmethod
    def decode(self, raw: Tensor, grid: Grid | None = None) -> Prediction:
        """
        Turn one image's raw output, (channels, h, w) float32 on the CPU, into a prediction.

        :param grid: how raw lies on the picture; None: as a target of `target` does.
        """

    @abstractmethod
    def measure(self, prediction: Any, sample: Sample) -> NDArray[np.float32]:
        """Return the errors of one prediction, (N, M) float32; the sample has a batch of one."""

    @abstractmethod
    def summarize(self, measured: Sequence[NDArray[np.float32]]) -> dict[str, float]:
        """Turn the errors of all images of a data set into its figures."""

    @abstractmethod
    def colorize(self, prediction: Any) -> NDArray[np.uint8]:
        """Return the prediction as a picture for people, (H, W, 3) uint8 RGB."""
