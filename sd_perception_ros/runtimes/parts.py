"""
A model in parts that other runtimes can run: one encoder, its denoisers, a head for each task.

In parts, tasks share the encoder and the denoiser, and only the heads of wanted tasks run. One
ONNX graph with all outputs would compute all of them for every frame: no runtime skips an
output that is not used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import is_dataclass
import hashlib
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn, Tensor

from sd_perception_ros.backbones.backbone import Backbone
from sd_perception_ros.heads.head import Head
from sd_perception_ros.model import Model

PACKAGE = Path(__file__).parents[1]
CODE = ('backbones', 'heads', 'runtimes')  # the code that turns weights into an ONNX graph


class ModelPart(NamedTuple):
    """
    A part of a model: a function of tensors.

    :ivar name: 'encoder', 'denoiser_0', 'head_depth' and so on.
    :ivar source: the part whose outputs are its inputs; '': its input is the image.
    :ivar module: inputs -> outputs, each (B, C, h, w) of any B, h and w.
    :ivar inputs: names of the inputs.
    :ivar outputs: names of the outputs.
    """

    name: str
    source: str
    module: nn.Module
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def parts_of(model: Model) -> list[ModelPart]:
    """Return the parts of a folded model, each after its source."""
    encoder = _EncoderPart(next(iter(model.backbones.values())))
    parts = [ModelPart('encoder', '', encoder, ('image',), ('latent',))]
    denoisers = {}
    for index, (key, backbone) in enumerate(model.backbones.items()):
        levels = tuple(f'level_{i}' for i in range(len(backbone.feature_channels)))
        outputs = ('clean', *levels) if backbone.outputs_latent else levels
        denoisers[key] = ModelPart(
            f'denoiser_{index}', 'encoder', _DenoiserPart(backbone), ('latent',), outputs
        )
    parts += denoisers.values()
    for task, head in model.heads.items():
        key = model.backbone_of[task]
        source = denoisers[key]
        module = _HeadPart(head, model.backbones[key].outputs_latent)
        parts.append(ModelPart(f'head_{task}', source.name, module, source.outputs, ('raw',)))
    return parts


def digests_of(model: Model, salt: str = '') -> dict[str, str]:
    """
    Return a hash for each part of a folded model, by name: of its weights and its code.

    For a model on the meta device, the hash is that of its weight files.

    :param salt: what else the graphs depend on.
    """
    backbones = {key: digest_of(backbone, salt) for key, backbone in model.backbones.items()}
    digests = {'encoder': next(iter(backbones.values()))}
    digests |= {f'denoiser_{i}': digest for i, digest in enumerate(backbones.values())}
    for task, head in model.heads.items():
        # A decoder head runs a module of its backbone.
        digests[f'head_{task}'] = digest_of(head, backbones[model.backbone_of[task]])
    return digests


@torch.no_grad()
def run_parts(parts: Sequence[ModelPart], image: Tensor) -> dict[str, tuple[Tensor, ...]]:
    """Return the outputs of each part by name, and the image by the name ''."""
    values: dict[str, tuple[Tensor, ...]] = {'': (image,)}
    for part in parts:
        values[part.name] = part.module(*values[part.source])
    return values


def digest_of(module: nn.Module, salt: str = '') -> str:
    """
    Return a hash of a module's weights, its settings and our code: equal hashes, equal graphs.

    On the meta device, the setting `weights_digest` represents the weights.
    """
    digest = hashlib.sha256(f'{salt} {torch.__version__}'.encode())
    for folder in CODE:
        for file in sorted((PACKAGE / folder).glob('*.py')):
            digest.update(file.read_bytes())
    for name, submodule in module.named_modules():
        settings = {
            key: value
            for key, value in sorted(vars(submodule).items())
            if isinstance(value, bool | int | float | str | tuple) or is_dataclass(value)
            if key != 'training'
        }
        digest.update(f'{name} {type(submodule).__qualname__} {settings}'.encode())
    for name, tensor in module.state_dict().items():
        digest.update(f'{name} {tuple(tensor.shape)} {tensor.dtype}'.encode())
        if not tensor.is_meta:
            digest.update(tensor.detach().cpu().contiguous().numpy())
    return digest.hexdigest()[:16]


class _EncoderPart(nn.Module):
    """Image -> latent."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return (self.backbone.encode(image),)


class _DenoiserPart(nn.Module):
    """Latent -> clean latent (if the denoiser has one) and levels."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, latent: Tensor) -> tuple[Tensor, ...]:
        clean, levels = self.backbone.step(latent)
        return levels if clean is None else (clean, *levels)


class _HeadPart(nn.Module):
    """Outputs of the denoiser -> raw output of a task."""

    def __init__(self, head: Head, has_latent: bool) -> None:
        super().__init__()
        self.head = head
        self.has_latent = has_latent

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        clean, levels = (tensors[0], tensors[1:]) if self.has_latent else (None, tensors)
        return (self.head(clean, levels),)
