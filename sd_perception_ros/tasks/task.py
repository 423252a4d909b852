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
    :cvar headline: the figure by which pictures are ranked, the worst first.
    :cvar dense: whether the raw output is brought to the picture's size before it is decoded;
        otherwise it stays as the head gives it, and `decode` is told its grid.
    :cvar meaning: options that say what the numbers of an answer mean; with others, a readout that
        has learned goes on.
    """

    name: ClassVar[str]
    truth: ClassVar[str]
    headline: ClassVar[str]
    higher_is_better: ClassVar[bool] = False
    dense: ClassVar[bool] = True
    meaning: ClassVar[tuple[str, ...]] = ()

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
        Turn one image's raw output, (channels, h, w) float32 on any device, into a prediction.

        :param grid: how raw lies on the picture; None: as a target of `target` does.
        """

    @abstractmethod
    def measure(self, prediction: Any, sample: Sample) -> Any:
        """
        Return what `summarize` needs of one prediction; the sample has a batch of one.

        It is small, however large the picture, and kept for every picture of a data set, so that
        any selection of pictures can be summarized.
        """

    @abstractmethod
    def summarize(self, measured: Sequence[Any]) -> dict[str, float]:
        """
        Turn what `measure` gave for one or more images into figures, in the field's names.

        A figure of which these images say nothing is NaN, or left out.
        """

    @abstractmethod
    def colorize(self, prediction: Any) -> NDArray[np.uint8]:
        """Return the prediction as a picture for people, (H, W, 3) uint8 RGB."""
