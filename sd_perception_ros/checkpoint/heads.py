"""Readouts of a checkpoint: made fresh to be trained, or with their weights to serve."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from sd_perception_ros.backbones.backbone import Backbone
from sd_perception_ros.checkpoint.layouts import ends_in_relu
from sd_perception_ros.checkpoint.weight_files import Reader
from sd_perception_ros.checkpoint.weights import load_into
from sd_perception_ros.heads.decoder import DecoderHead
from sd_perception_ros.heads.dpt import DPTHead
from sd_perception_ros.heads.head import Head
from sd_perception_ros.heads.light import LightHead

UNUSED = 'neck.fusion_stage.layers.0.residual_layer1.'


def make_head(
    kind: str, channels: int, backbone: Backbone, width: int = 0, rectifies: bool = False
) -> Head:
    """
    Make a readout with fresh weights.

    :param kind: 'decoder', 'light' or 'dpt'. A light head answers at half the resolution that
        the network sees.
    :param channels: of the task's raw output.
    :param width: channels inside a light or DPT head; 0: 32 for the few channels of a map, 64 for
        many.
    :param rectifies: whether a DPT head's answer is never negative.
    """
    width = width or (32 if channels <= 8 else 64)
    if kind == 'decoder':
        return DecoderHead(channels, backbone.decode)
    if kind == 'dpt':
        return DPTHead(channels, backbone.feature_channels, width, rectifies)
    rise = max(backbone.stride // 2, 1)
    return LightHead(channels, backbone.feature_channels, backbone.latent_channels, rise, width)


def load_head(
    where: str, kind: str, weights: Path | None, channels: int, backbone: Backbone, reader: Reader
) -> Head:
    """
    Make a readout and give it its weights.

    :param where: what the user calls this task's entry, for errors.
    :param weights: folder or file of the head, where it has some.
    :raises ValueError: the backbone does not give what it reads, or its weights do not fit.
    """
    tensors: dict[str, Tensor] = reader.read(weights) if weights is not None else {}
    rectifies = kind == 'dpt' and weights is not None and ends_in_relu(weights)
    head = make_head(kind, channels, backbone, _width_of(tensors), rectifies)
    if head.reads_latent and not backbone.gives_latent:
        raise ValueError(
            f"{where}: a '{kind}' head reads the clean latent, but the UNet has no conv_out; use "
            'head: dpt, which it was trained with'
        )
    if isinstance(head, DecoderHead) and not backbone.paints:
        raise ValueError(
            f'{where}: the decoder head needs a VAE with a decoder, and this one only encodes; '
            'name a whole one in vae, or use head: dpt or light'
        )
    if not head.state_dict():
        return head
    if weights is None:
        raise ValueError(f"{where}: a '{kind}' head has weights; name them in head_weights")
    if kind == 'dpt':  # the first version stored a part that nothing runs through
        tensors = {n: t for n, t in tensors.items() if not n.startswith(UNUSED)}
    return load_into(head, tensors, weights).float()


def _width_of(weights: Mapping[str, Tensor]) -> int:
    """Return the channels inside a head, which its weights tell; 0 if they do not."""
    for name in ('project.0.weight', 'head.projection.weight'):
        if name in weights:
            return len(weights[name])
    return 0
