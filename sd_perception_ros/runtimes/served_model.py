"""One served model: resizing of images to the network, and of raw outputs to the image."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import torch
from torch import Tensor

from sd_perception_ros.images import (
    fitted_size,
    normalized,
    pad_to_stride,
    padded_size,
    resize,
    unpad,
)
from sd_perception_ros.runtimes.prepare import Runnable
from sd_perception_ros.types import Grid

Size = tuple[int, int]  # (height, width), pixels


class Resizing(NamedTuple):
    """
    How images are resized for the network.

    :ivar pads: True: padded at its lower and right edge; False: stretched.
    :ivar long_side_px: longer side of the resized image; 0: unchanged.
    """

    pads: bool
    long_side_px: int


class ServedModel(NamedTuple):
    """
    The model of one checkpoint on its device.

    :ivar model: the model in its runtime.
    :ivar encoder_id: models with the same encoder and resizing share the latent of an image.
    :ivar resizing: how images are resized.
    :ivar dtype: number format of the input.
    """

    model: Runnable
    encoder_id: str
    resizing: Resizing
    dtype: torch.dtype

    def sizes(self, height: int, width: int) -> tuple[Size, Size]:
        """Return the (height, width) of the resized image, and of the padded input."""
        resized = fitted_size(height, width, self.resizing.long_side_px)
        padded = padded_size(*resized, self.model.stride) if self.resizing.pads else resized
        return resized, padded

    def run(
        self,
        levels: Tensor,
        tasks: Collection[str],
        latents: dict[tuple[str, Resizing], Tensor],
    ) -> dict[str, Tensor]:
        """
        Run some tasks: {task: raw output (B, channels, h, w) at the network's size}.

        :param levels: (B, 3, H, W) 0..255, on the device.
        :param latents: latents of these images, by encoder and resizing; missing ones are added.
        """
        key = (self.encoder_id, self.resizing)
        if key not in latents:
            latents[key] = self.model.encode(self.network_input(levels))
        return self.model.read(latents[key], tasks)

    def network_input(self, levels: Tensor) -> Tensor:
        """(B, 3, H, W) 0..255 -> (B, 3, H', W') -1..1 of `dtype`, resized and padded."""
        resized, _ = self.sizes(*levels.shape[-2:])
        image = normalized(resize(levels, *resized))
        if self.resizing.pads:
            image = pad_to_stride(image, self.model.stride)
        return image.to(self.dtype, memory_format=torch.channels_last)

    def at_image_size(self, task: str, raw: Tensor, height: int, width: int) -> Tensor:
        """Return a raw output as float32; that of a dense task is resized to (height, width)."""
        raw = raw.float()
        if not self.model.tasks[task].dense:
            return raw
        resized, padded = self.sizes(height, width)
        return resize(unpad(raw, padded, resized), height, width)

    def grid(self, task: str, raw: Tensor, height: int, width: int) -> Grid:
        """
        Return the grid of a raw output on its image.

        :param raw: (..., h, w), from `at_image_size`.
        :param height: height of the image, pixels.
        :param width: width of the image.
        """
        if self.model.tasks[task].dense:
            return Grid(height, width, 1.0, 1.0)
        resized, padded = self.sizes(height, width)
        rows, columns = raw.shape[-2:]
        cell_x_px = padded[1] / columns * width / resized[1]
        cell_y_px = padded[0] / rows * height / resized[0]
        return Grid(height, width, cell_x_px, cell_y_px)
