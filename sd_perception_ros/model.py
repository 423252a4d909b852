"""A model: encode once, run each distinct denoiser once, run a head for each task."""

from __future__ import annotations

from collections.abc import Callable, Collection

from torch import nn, Tensor

from sd_perception_ros.backbones.backbone import Backbone
from sd_perception_ros.heads.decoder import DecoderHead
from sd_perception_ros.heads.head import Head
from sd_perception_ros.tasks.task import Task


class Model(nn.Module):
    """
    The network of a checkpoint.

    :param backbones: by name; all share one encoder.
    :param tasks: by task name.
    :param heads: by task name.
    :param backbone_of: task name to the name of its backbone.
    :ivar load_weights: of a model on the meta device: returns the same model with weights.
    """

    def __init__(
        self,
        backbones: dict[str, Backbone],
        tasks: dict[str, Task],
        heads: dict[str, Head],
        backbone_of: dict[str, str],
    ) -> None:
        super().__init__()
        self.backbones = backbones
        self.heads = heads
        # Modules are registered as lists: a key such as '../unet_v2' is no module name.
        self._modules_of = nn.ModuleList([*backbones.values(), *heads.values()])
        self.tasks = tasks
        self.backbone_of = backbone_of
        self.stride = next(iter(backbones.values())).stride
        self.load_weights: Callable[[], Model] | None = None

    @property
    def reads_crops(self) -> bool:
        """Whether its tasks read a crop of one person instead of the picture."""
        return any(task.reads_crops for task in self.tasks.values())

    def materialize(self) -> Model:
        """Return the model with weights: itself, or if it is on the meta device, a new one."""
        return self if self.load_weights is None else self.load_weights()

    def encoder_id(self) -> str:
        """Return a hash of the encoder's weights: equal hashes give equal latents."""
        return next(iter(self.backbones.values())).encoder_id()

    def fold(self) -> None:
        """
        Make the model smaller for serving, in place; outputs stay equal up to rounding.

        It cannot be trained or saved afterwards.
        """
        decodes = any(isinstance(head, DecoderHead) for head in self.heads.values())
        for name, backbone in self.backbones.items():
            heads = [self.heads[task] for task, of in self.backbone_of.items() if of == name]
            if heads and all(head.levels_read and not head.reads_latent for head in heads):
                backbone.cut(max(head.levels_read for head in heads))
            backbone.fold(decodes)

    def encode(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in -1..1 -> (B, c, h, w), the latent that every denoiser reads."""
        return next(iter(self.backbones.values())).encode(image)

    def read(self, latent: Tensor, tasks: Collection[str]) -> dict[str, Tensor]:
        """(B, c, h, w) -> {task: raw output (B, task.channels, H', W')}."""
        denoised = {
            name: self.backbones[name].step(latent)
            for name in dict.fromkeys(self.backbone_of[task] for task in tasks)
        }
        return {task: self.heads[task](*denoised[self.backbone_of[task]]) for task in tasks}

    def forward(self, image: Tensor, tasks: Collection[str] | None = None) -> dict[str, Tensor]:
        """(B, 3, H, W) in -1..1 -> {task: raw output}; all tasks unless some are named."""
        return self.read(self.encode(image), self.tasks if tasks is None else tasks)
