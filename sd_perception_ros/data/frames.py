"""What a training asks of a set of frames, wherever they come from and lie."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from sd_perception_ros.types import Sample


class Frames(Protocol):
    """Pictures with what is true about them, by number."""

    folder: Path

    def __len__(self) -> int:
        """Return the number of frames."""

    def __getitem__(self, index: int) -> Sample:
        """Return a frame as a batch of one, on the host; keys and units as `Sample` says."""

    def images(self, indices: list[int]) -> Tensor:
        """Return the pictures alone of frames of one size, (B, 3, H, W) in -1..1."""

    def batch(self, indices: list[int]) -> Sample:
        """Return several frames of one size as a batch."""

    def fingerprint(self) -> str:
        """Return a short name of this very set."""

    def recipe(self) -> dict[str, Any]:
        """Return how the frames were made; empty where nobody knows."""
