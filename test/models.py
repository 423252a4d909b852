"""Very small models for tests: every part is real, and random."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiTTransformer2DModel,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    UNet2DConditionModel,
)
import torch

from sd_perception_ros.backbones.latent import LatentBackbone
from sd_perception_ros.backbones.unet import UNetBackbone
from sd_perception_ros.checkpoint import checkpoint
from sd_perception_ros.checkpoint.assembly import Assembly
from sd_perception_ros.checkpoint.config_file import CheckpointConfig, FILE, write_config
from sd_perception_ros.checkpoint.heads import make_head
from sd_perception_ros.checkpoint.locations import Locations
from sd_perception_ros.checkpoint.reader import Reader
from sd_perception_ros.checkpoint.steps import StepOptions
from sd_perception_ros.checkpoint.weights import save_model, save_tensors
from sd_perception_ros.heads.deconv import DeconvHead
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
        name: make_head(kind, tasks[name].channels, backbone, 16) for name, kind in heads.items()
    }
    return Model({'unet': backbone}, tasks, made, dict.fromkeys(heads, 'unet')).eval()


def save_tiny(folder: Path, heads: dict[str, str] | None = None, seed: int = 0) -> Path:
    """Write a small random checkpoint, depth and normals unless told, and return its folder."""
    model = tiny_model(heads or {'depth': 'light', 'normals': 'light'}, seed)
    checkpoint.save(folder, model, CheckpointConfig(long_side_px=64, license='Apache-2.0'))
    return folder


def random_weights(module: torch.nn.Module) -> torch.nn.Module:
    """Fill a module with noise, so that nothing is zero and nothing can be forgotten."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.2)
    return module.eval()


def unet_with(**changes: Any) -> UNet2DConditionModel:
    """Return the tiny UNet with another config."""
    config = {k: v for k, v in tiny_unet().config.items() if not k.startswith('_')}
    return UNet2DConditionModel(**config | changes)


def tiny_sdxl() -> UNet2DConditionModel:
    """Return a UNet that reads sizes and a pooled prompt of 6 numbers, as SDXL's does."""
    return unet_with(
        addition_embed_type='text_time',
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=6 * 4 + 6,
        sample_size=8,
    )


def tiny_dit() -> DiTTransformer2DModel:
    """Return four blocks of DiT that predict a variance, too."""
    return DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=4,
        sample_size=8,
        num_embeds_ada_norm=10,
    )


def tiny_pixart() -> PixArtTransformer2DModel:
    """Return four blocks of PixArt that are told the picture's size, as alpha is."""
    return PixArtTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=8,
        num_layers=4,
        cross_attention_dim=24,
        sample_size=8,
        caption_channels=8,
        use_additional_conditions=True,
    )


def tiny_mmdit() -> SD3Transformer2DModel:
    """Return four blocks of Stable Diffusion 3.5, the first with two attentions."""
    return SD3Transformer2DModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        num_layers=4,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=8,
        caption_projection_dim=16,
        pooled_projection_dim=6,
        pos_embed_max_size=6,
        dual_attention_layers=(0,),
        qk_norm='rms_norm',
    )


# A denoiser of each kind that a checkpoint may have, and whether it reads a pooled prompt.
DENOISERS: dict[str, tuple[Callable[[], Any], bool]] = {
    'sd': (tiny_unet, False),
    'marigold': (lambda: unet_with(in_channels=8), False),
    'lotus': (
        lambda: unet_with(class_embed_type='projection', projection_class_embeddings_input_dim=4),
        False,
    ),
    'sdxl': (tiny_sdxl, True),
    'dit': (tiny_dit, False),
    'pixart': (tiny_pixart, False),
    'mmdit': (tiny_mmdit, True),
}


def save_base(folder: Path, kind: str, seed: int = 0) -> Path:
    """Write one of `DENOISERS`, random, as a folder in the layout of diffusers."""
    torch.manual_seed(seed)
    make, pooled = DENOISERS[kind]
    denoiser = random_weights(make())
    name = 'unet' if isinstance(denoiser, UNet2DConditionModel) else 'transformer'
    save_model(folder / 'vae', tiny_vae(), torch.float32)
    save_model(folder / name, denoiser, torch.float32)
    summary = {'pooled': torch.randn(1, 6)} if pooled else {}
    save_tensors(folder / 'prompt.safetensors', {'prompt': torch.randn(1, 3, 8)} | summary)
    if kind == 'lotus':  # its class embedding is known by this
        DDIMScheduler(prediction_type='sample').save_config(folder / 'scheduler')
    return folder


def base_backbone(folder: Path) -> LatentBackbone:
    """Read the backbone of a folder in the layout of diffusers, to serve it."""
    files = Locations(folder).files_of('.')
    return Assembly(Reader()).backbone(files, StepOptions()).eval().requires_grad_(False)


def save_sdpose(folder: Path, joints: int = 17, seed: int = 0) -> Path:
    """
    Write a small random checkpoint in SDPose's layout, for crops of 48 x 64 pixels.

    Its heat maps are high enough that joints are found in any picture.
    """
    torch.manual_seed(seed)
    switch = {'class_embed_type': 'projection', 'projection_class_embeddings_input_dim': 4}
    width = 16 if joints == 17 else 32  # the last level, or the one before
    channels = (16, 32, 32) if joints == 133 else (16, 32)
    blocks = ('DownBlock2D',) * (len(channels) - 1)
    unet = unet_with(
        block_out_channels=channels,
        down_block_types=(*blocks, 'CrossAttnDownBlock2D'),
        up_block_types=('CrossAttnUpBlock2D', *(name.replace('Down', 'Up') for name in blocks)),
        **switch,
    )
    head = DeconvHead(joints, tuple(reversed(channels)), width)
    torch.nn.init.constant_(head.final_layer.bias, 0.6)
    save_model(folder / 'vae', tiny_vae(), torch.float32)
    save_model(folder / 'unet', unet, torch.float32)
    save_tensors(folder / 'prompt.safetensors', {'prompt': torch.randn(1, 2, 8)})
    save_tensors(folder / 'decoder' / 'decoder.safetensors', head.state_dict())
    task = {'unet': 'unet', 'options': {'crop_height_px': 64}}
    write_config(folder / FILE, {'tasks': {'human_pose': task}, 'license': 'MIT'})
    return folder
