"""
A model in parts that other runtimes can run: one encoder, its denoisers, a head for each task.

Parts keep what makes a frame cheap: tasks share the encoder and the denoiser, and the head of a
task that nobody wants does not run. No runtime leaves out what feeds an output that nobody reads,
so one graph with many outputs would always cost all of them.
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
CODE = ('backbones', 'heads', 'runtimes')  # what turns weights into a graph


class Part(NamedTuple):
    """
    A function of tensors.

    :ivar name: 'encoder', 'denoiser_0', 'head_depth' and so on.
    :ivar source: the part whose outputs it reads; empty: it reads the picture.
    :ivar module: (inputs) -> outputs, each (B, C, h, w) of any B, h and w.
    :ivar inputs: names of what it takes.
    :ivar outputs: names of what it gives.
    """

    name: str
    source: str
    module: nn.Module
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def parts_of(model: Model) -> list[Part]:
    """Return the parts of a folded model, each after its source."""
    backbone = next(iter(model.backbones.values()))
    found = [Part('encoder', '', _Encoder(backbone), ('image',), ('latent',))]
    denoisers = {}
    for index, (key, backbone) in enumerate(model.backbones.items()):
        levels = tuple(f'level_{i}' for i in range(len(backbone.feature_channels)))
        outputs = ('clean', *levels) if backbone.outputs_latent else levels
        denoisers[key] = Part(
            f'denoiser_{index}', 'encoder', _Denoiser(backbone), ('latent',), outputs
        )
    found += denoisers.values()
    for task, head in model.heads.items():
        key = model.backbone_of[task]
        source = denoisers[key]
        module = _Readout(head, model.backbones[key].outputs_latent)
        found.append(Part(f'head_{task}', source.name, module, source.outputs, ('raw',)))
    return found


def digests_of(model: Model) -> dict[str, str]:
    """
    Name the weights of each part of a folded model, and the code that they go through.

    Of an outline, which has no numbers, the files that they lie in are named.
    """
    backbones = {key: digest_of(backbone) for key, backbone in model.backbones.items()}
    found = {'encoder': next(iter(backbones.values()))}
    found |= {f'denoiser_{i}': digest for i, digest in enumerate(backbones.values())}
    for task, head in model.heads.items():
        # A decoder head reads through its backbone.
        found[f'head_{task}'] = digest_of(head, backbones[model.backbone_of[task]])
    return found


@torch.no_grad()
def run_parts(parts: Sequence[Part], image: Tensor) -> dict[str, tuple[Tensor, ...]]:
    """Return what each part gives, by name, and the picture itself under the empty name."""
    values: dict[str, tuple[Tensor, ...]] = {'': (image,)}
    for part in parts:
        values[part.name] = part.module(*values[part.source])
    return values


def digest_of(module: nn.Module, salt: str = '') -> str:
    """
    Name a module's numbers, its settings and our code: equal names make equal graphs.

    Where there are shapes alone, its setting `weights_digest` names the numbers.
    """
    digest = hashlib.sha256(f'{salt} {torch.__version__}'.encode())
    for folder in CODE:
        for file in sorted((PACKAGE / folder).glob('*.py')):
            digest.update(file.read_bytes())
    for name, one in module.named_modules():
        settings = {
            key: value
            for key, value in sorted(vars(one).items())
            if isinstance(value, bool | int | float | str | tuple) or is_dataclass(value)
            if key != 'training'
        }
        digest.update(f'{name} {type(one).__qualname__} {settings}'.encode())
    for name, tensor in module.state_dict().items():
        digest.update(f'{name} {tuple(tensor.shape)} {tensor.dtype}'.encode())
        if not tensor.is_meta:
            digest.update(tensor.detach().cpu().contiguous().numpy())
    return digest.hexdigest()[:16]


class _Encoder(nn.Module):
    """The picture's latent."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return (self.backbone.encode(image),)


class _Denoiser(nn.Module):
    """The one step, and the levels on its way."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, latent: Tensor) -> tuple[Tensor, ...]:
        clean, levels = self.backbone.step(latent)
        return levels if clean is None else (clean, *levels)


class _Readout(nn.Module):
    """The head of a task."""

    def __init__(self, head: Head, outputs_latent: bool) -> None:
        super().__init__()
        self.head = head
        self.outputs_latent = outputs_latent

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        clean, levels = (tensors[0], tensors[1:]) if self.outputs_latent else (None, tensors)
        return (self.head(clean, levels),)
