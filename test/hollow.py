"""Checkpoints of Stable Diffusion 2.1's size that take no room: real headers, no numbers."""

from __future__ import annotations

from collections.abc import Mapping
import json
import math
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL, UNet2DConditionModel
import torch
from torch import nn

from sd_perception_ros.checkpoint.weights import CONFIGS, read_model_config

Shapes = dict[str, tuple[int, ...]]
WIDTHS = (320, 640, 1280, 1280)
SCHEDULER = {
    '_class_name': 'DDIMScheduler',
    'beta_start': 0.00085,
    'beta_end': 0.012,
    'beta_schedule': 'scaled_linear',
    'num_train_timesteps': 1000,
    'prediction_type': 'v_prediction',
    'clip_sample': False,
    'set_alpha_to_one': False,
    'steps_offset': 1,
    'timestep_spacing': 'leading',
}


def write(file: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Write a safetensors file of half-precision tensors whose numbers are a hole in the disk."""
    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * math.prod(shape)
        header[name] = {'dtype': 'F16', 'shape': list(shape), 'data_offsets': [start, end]}
    text = json.dumps(header).encode()
    text += b' ' * (-len(text) % 8)
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open('wb') as opened:
        opened.write(len(text).to_bytes(8, 'little') + text)
        opened.truncate(8 + len(text) + end)


def shapes_of(module: nn.Module) -> Shapes:
    """Return a module's tensors by name."""
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def unet_config(**changes: Any) -> dict[str, Any]:
    """Return Stable Diffusion 2.1's, with changes."""
    return read_model_config(CONFIGS, CONFIGS / 'sd21_unet.json') | changes


def unet_shapes(**changes: Any) -> Shapes:
    """Return the tensors of Stable Diffusion 2.1's UNet, with changes of its config."""
    with torch.device('meta'):
        return shapes_of(UNet2DConditionModel.from_config(unet_config(**changes)))


def vae_shapes() -> Shapes:
    """Return the tensors of Stable Diffusion 2.1's autoencoder, attention named as in its file."""
    config = read_model_config(CONFIGS, CONFIGS / 'sd21_vae.json')
    old = {'to_q': 'query', 'to_k': 'key', 'to_v': 'value', 'to_out.0': 'proj_attn'}
    with torch.device('meta'):
        shapes = shapes_of(AutoencoderKL.from_config(config))
    for new_name, old_name in old.items():
        shapes = {
            k.replace(f'attentions.0.{new_name}.', f'attentions.0.{old_name}.'): v
            for k, v in shapes.items()
        }
    return shapes


def dpt_shapes(first_version: bool = False) -> Shapes:
    """Return the tensors of GenPercept's DPT head, written down from its code."""
    shapes: Shapes = {
        'feature_upsample_0.conv.weight': (320, 320, 3, 3),
        'feature_upsample_0.conv.bias': (320,),
        'head.projection.weight': (256, 256, 3, 3),
        'head.projection.bias': (256,),
        'head.head.0.weight': (128, 256, 3, 3),
        'head.head.0.bias': (128,),
        'head.head.2.weight': (32, 128, 3, 3),
        'head.head.2.bias': (32,),
        'head.head.4.weight': (1, 32, 1, 1),
        'head.head.4.bias': (1,),
    }
    for level, width in enumerate(WIDTHS):
        shapes[f'neck.convs.{level}.weight'] = (256, width, 3, 3)
        layer = f'neck.fusion_stage.layers.{level}'
        shapes[f'{layer}.projection.weight'] = (256, 256, 1, 1)
        shapes[f'{layer}.projection.bias'] = (256,)
        # The first stage has nothing to add; the first version stored that part all the same.
        for part in (1, 2) if level or first_version else (2,):
            for number in (1, 2):
                name = f'{layer}.residual_layer{part}.convolution{number}.weight'
                shapes[name] = (256, 256, 3, 3)
    return shapes


def lora_shapes(rank: int) -> Shapes:
    """Return a UNet's tensors with adapters inside, as GenPercept's experiments store them."""
    shapes: Shapes = {}
    for name, shape in unet_shapes().items():
        layer = name.rpartition('.')[0]
        if not layer.endswith(('.to_q', '.to_k', '.to_v', '.to_out.0')):
            shapes[name] = shape
            continue
        shapes[name.replace(layer, f'{layer}.base_layer')] = shape
        if name.endswith('.weight'):
            shapes[f'{layer}.lora_A.default.weight'] = (rank, shape[1])
            shapes[f'{layer}.lora_B.default.weight'] = (shape[0], rank)
    return shapes


def pipeline(folder: Path, scheduler: Mapping[str, Any] = SCHEDULER, **changes: Any) -> Path:
    """Write a folder in the layout of diffusers, its UNet's config changed."""
    weights = 'diffusion_pytorch_model.safetensors'
    write(folder / 'unet' / weights, unet_shapes(**changes))
    write(folder / 'vae' / weights, vae_shapes())
    for name, values in (
        ('unet/config.json', unet_config(**changes) | {'_class_name': 'UNet2DConditionModel'}),
        ('vae/config.json', read_model_config(CONFIGS, CONFIGS / 'sd21_vae.json')),
        ('scheduler/scheduler_config.json', scheduler),
        ('model_index.json', {'unet': ['diffusers', 'UNet2DConditionModel']}),
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(values))
    return folder
