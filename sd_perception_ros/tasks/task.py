"""What a task is: a target, a loss, a decoder and a measure, in one file for each task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sd_perception_ros.types import Prediction, Sample


@dataclass(frozen=True)
class Task(ABC):
    """
    One quantity that is read from a picture.

    Targets and raw outputs of the network live in the same space, so decoding a sample's own
    target scores perfectly. The fields of a subclass are its options in checkpoint.yaml.
    """

    name: ClassVar[str]
    channels: ClassVar[int]
    # Which of a data set's truths the target is made from.
    truth: ClassVar[str]

    @abstractmethod
    def target(self, sample: Sample) -> tuple[Tensor, Tensor]:
        """Return what the head should output, (B, channels, H, W), and where, (B, 1, H, W)."""

    @abstractmethod
    def loss(self, raw: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """Return one number that falls as raw nears target; all (B, C, H, W) float32."""

    @abstractmethod
    def decode(self, raw: Tensor) -> Prediction:
        """Turn one image's raw output, (channels, H, W) float32 on the CPU, into a prediction."""

    @abstractmethod
    def measure(self, prediction: Any, sample: Sample) -> NDArray[np.float32]:
        """Return the errors of one prediction, (N, M) float32; the sample has a batch of one."""

    @abstractmethod
    def summarize(self, measured: Sequence[NDArray[np.float32]]) -> dict[str, float]:
        """Turn the errors of all images of a data set into its figures."""

    @abstractmethod
    def colorize(self, prediction: Any) -> NDArray[np.uint8]:
        """Return the prediction as a picture for people, (H, W, 3) uint8 RGB."""
