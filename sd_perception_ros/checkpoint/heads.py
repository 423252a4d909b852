"""The heads of a checkpoint: new ones for training, or with their weights for serving."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from sd_perception_ros.backbones.backbone import Backbone
from sd_perception_ros.checkpoint.reader import Reader
from sd_perception_ros.checkpoint.weights import load_into, read_model_config
from sd_perception_ros.heads.decoder import DecoderHead
from sd_perception_ros.heads.deconv import DeconvHead
from sd_perception_ros.heads.dpt import DPTHead
from sd_perception_ros.heads.head import Head
from sd_perception_ros.heads.light import LightHead

UNUSED = 'neck.fusion_stage.layers.0.residual_layer1.'  # stored by GenPercept's first version


def make_head(
    kind: str, channels: int, backbone: Backbone, width: int = 0, rectifies: bool = False
) -> Head:
    """
    Make a head with new weights.

    :param kind: one of `HEADS`. The output of a light head has half the resolution of the
        network's input.
    :param channels: channels of the raw output of the task.
    :param width: channels inside a light, DPT or deconv head; 0: 32 for up to 8 output channels,
        64 for more.
    :param rectifies: whether a DPT head ends in a ReLU.
    """
    width = width or (32 if channels <= 8 else 64)
    if kind == 'decoder':
        return DecoderHead(channels, backbone.decode)
    if kind == 'dpt':
        return DPTHead(channels, backbone.feature_channels, width, rectifies)
    if kind == 'deconv':
        return DeconvHead(channels, backbone.feature_channels, width)
    rise = max(backbone.stride // 2, 1)
    return LightHead(channels, backbone.feature_channels, backbone.latent_channels, rise, width)


def load_head(
    where: str, kind: str, weights: Path | None, channels: int, backbone: Backbone, reader: Reader
) -> Head:
    """
    Make a head with its weights, in float32.

    :param where: the task's entry in checkpoint.yaml, for error messages.
    :param weights: folder or file; None for the decoder, which has no weights of its own.
    :raises FileNotFoundError: the weights are missing.
    :raises ValueError: the head needs an output that the backbone lacks, or the weights do not
        fit.
    """
    tensors: dict[str, Tensor] = reader.read(weights) if weights is not None else {}
    rectifies = kind == 'dpt' and weights is not None and ends_in_relu(weights)
    head = make_head(kind, channels, backbone, _width_of(tensors), rectifies)
    if head.reads_latent and not backbone.outputs_latent:
        raise ValueError(
            f"{where}: a '{kind}' head reads the clean latent, but the UNet has no conv_out; use "
            'head: dpt, which it was trained with'
        )
    if isinstance(head, DecoderHead) and not backbone.has_decoder:
        raise ValueError(
            f'{where}: the decoder head needs a VAE with a decoder, and this one only encodes; '
            'name a complete one in vae, or use head: dpt or light'
        )
    if not head.state_dict():
        return head
    if weights is None:
        raise ValueError(f"{where}: a '{kind}' head has weights; name them in head_weights")
    if kind == 'dpt':
        tensors = {n: t for n, t in tensors.items() if not n.startswith(UNUSED)}
    return load_into(head, tensors, weights).float()


def ends_in_relu(weights: Path) -> bool:
    """
    Return whether an official DPT head ends in a ReLU; both kinds have the same tensors.

    As in the official code, the class in config.json decides; without config.json, the name of
    the folder.

    :param weights: folder or file of the head.
    """
    folder = weights if weights.is_dir() else weights.parent
    if (folder / 'config.json').is_file():
        names = ' '.join(read_model_config(folder, None).get('architectures') or ())
        if 'DPTNeckHead' in names:
            return 'Identity' not in names
    return folder.name == 'dpt_head'


def _width_of(weights: Mapping[str, Tensor]) -> int:
    """Return the channels inside a head, from its weights; 0 for unknown weights."""
    for name in ('project.0.weight', 'head.projection.weight', 'conv_layers.0.weight'):
        if name in weights:
            return len(weights[name])
    return 0
