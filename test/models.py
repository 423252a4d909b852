"""Very small models for tests: every part is real, and random."""

from __future__ import annotations

from pathlib import Path

from diffusers import AutoencoderKL, UNet2DConditionModel
import torch

from sd_perception_ros import checkpoint
from sd_perception_ros.backbones.unet import UNetBackbone
from sd_perception_ros.checkpoint import CheckpointConfig
from sd_perception_ros.model import Model
from sd_perception_ros.tasks import make_task


def tiny_vae(channels: int = 8) -> AutoencoderKL:
    """Return an autoencoder with a stride of 8."""
    return AutoencoderKL(
        block_out_channels=(channels,) * 4,
        down_block_types=('DownEncoderBlock2D',) * 4,
        up_block_types=('UpDecoderBlock2D',) * 4,
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=4,
    )


def tiny_unet() -> UNet2DConditionModel:
    """Return a UNet of two levels."""
    return UNet2DConditionModel(
        block_out_channels=(16, 32),
        down_block_types=('DownBlock2D', 'CrossAttnDownBlock2D'),
        up_block_types=('CrossAttnUpBlock2D', 'UpBlock2D'),
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        cross_attention_dim=8,
        attention_head_dim=8,
        norm_num_groups=8,
    )


def tiny_model(heads: dict[str, str], seed: int = 0, vae_channels: int = 8) -> Model:
    """
    Return a random model in which all tasks share one denoiser.

    :param heads: task name to kind of head.
    :param vae_channels: more of them make a slower model.
    """
    torch.manual_seed(seed)
    backbone = UNetBackbone(tiny_vae(vae_channels), tiny_unet(), torch.zeros(1, 1, 8), timestep=1)
    tasks = {name: make_task(name) for name in heads}
    made = {
        name: checkpoint.make_head(kind, tasks[name].channels, backbone, 16)
        for name, kind in heads.items()
    }
    return Model({'unet': backbone}, tasks, made, dict.fromkeys(heads, 'unet')).eval()


def save_tiny(folder: Path, heads: dict[str, str] | None = None, seed: int = 0) -> Path:
    """Write a small random checkpoint, depth and normals unless told, and return its folder."""
    model = tiny_model(heads or {'depth': 'light', 'normals': 'light'}, seed)
    checkpoint.save(folder, model, CheckpointConfig(long_side_px=64, license='Apache-2.0'))
    return folder
