"""Pre-train a small latent diffusion model: autoencoder, latents, denoiser."""

from __future__ import annotations

import argparse

import torch
from tqdm import tqdm

from sd_perception_ros.backbones.small import (
    PROMPT_WIDTH,
    small_unet,
    small_vae,
    take_over,
)
from sd_perception_ros.backbones.unet import UNetBackbone
from sd_perception_ros.checkpoint.finetuning import base_folder
from sd_perception_ros.checkpoint.locations import PROMPT
from sd_perception_ros.checkpoint.reader import Reader
from sd_perception_ros.checkpoint.weight_files import has_weights
from sd_perception_ros.checkpoint.weights import (
    load_unet,
    load_vae,
    save_model,
    save_tensors,
    weights_fingerprint,
)
from sd_perception_ros.cli.following import follow
from sd_perception_ros.cli.jobs import tiny_encoder
from sd_perception_ros.data.dataset import Dataset
from sd_perception_ros.data.latents import encode_dataset, latents_of
from sd_perception_ros.data.opening import open_data
from sd_perception_ros.data.resident import resident
from sd_perception_ros.data.samples import size_mismatch
from sd_perception_ros.training.options import TrainingConfig
from sd_perception_ros.training.pretrain import (
    measure_scaling_factor,
    train_autoencoder,
    train_denoiser,
)
from sd_perception_ros.training.processes import device, processes
from sd_perception_ros.training.state import discard_state


def run(arguments: argparse.Namespace) -> int:
    """Run the stages that are not finished."""
    if processes() > 1:
        raise ValueError('pretrain runs in one process; start it without accelerate launch')
    if arguments.stage == 'tiny_encoder':
        torch.manual_seed(arguments.seed)
        images = open_data(arguments.data, keep=True, size=arguments.frame_size)
        images.check()
        print(f'{len(images)} frames in {images.name}')
        return tiny_encoder.run(arguments, resident(images, device()))
    _fresh_denoiser(arguments)  # before hours of training the autoencoder
    torch.manual_seed(arguments.seed)
    opened = open_data(arguments.data, keep=True, size=arguments.frame_size)
    opened.check()
    if arguments.stage != 'vae':  # before hours of training the autoencoder
        _check_sizes(opened)
    if arguments.stage in ('all', 'denoiser'):
        _check_windows(opened, arguments.denoiser_size)
    dataset = resident(opened, device())
    print(f'{len(dataset)} frames in {dataset.name}')
    for name, stage in (('vae', _vae), ('latents', _latents), ('denoiser', _denoiser)):
        stage(arguments, dataset)
        if name == arguments.stage:
            break
    return 0


def _check_sizes(dataset: Dataset) -> None:
    """Refuse images of several sizes: their latents do not fit in one array."""
    first = dataset.image(0).shape[-2:]
    for index in dataset.evenly_spaced(64):
        size = dataset.image(index).shape[-2:]
        if size != first:
            raise ValueError(size_mismatch(dataset.key(index), first, size))


def _check_windows(dataset: Dataset, size: tuple[int, int]) -> None:
    height, width = dataset.image(0).shape[-2:]
    if size[0] > height or size[1] > width:
        raise ValueError(
            f'windows of {size[1]}x{size[0]} do not fit into images of {width}x{height}; choose '
            'a smaller --denoiser-size, or a larger --frame-size'
        )


def _vae(arguments: argparse.Namespace, dataset: Dataset) -> None:
    folder = arguments.out / 'vae'
    if has_weights(folder):
        print(f'{folder} exists: the autoencoder is trained')
        return
    vae = small_vae()
    config = TrainingConfig(
        steps=arguments.vae_steps,
        batch_size=arguments.batch_size,
        learning_rate=1e-3,
        precision=arguments.precision,
        seed=arguments.seed,
    )
    state = arguments.out / 'vae_training'
    log = train_autoencoder(vae, dataset, config, arguments.vae_size, state)
    follow('autoencoder', log, config, arguments.out)
    factor = measure_scaling_factor(vae.eval(), dataset)
    vae.register_to_config(scaling_factor=round(factor, 5))
    # The autoencoder last: once it exists, the stage is finished.
    save_tensors(arguments.out / PROMPT, {'prompt': torch.zeros(1, 1, PROMPT_WIDTH)})
    save_model(folder, vae, torch.float32)
    discard_state(state)


def _latents(arguments: argparse.Namespace, dataset: Dataset) -> None:
    file = arguments.out / 'latents.safetensors'
    source = _source(arguments, dataset)
    if latents_of(file, source) is not None:
        print(f'{file} is there')
        return
    backbone = UNetBackbone(
        load_vae(arguments.out / 'vae', Reader()), small_unet(), torch.zeros(1, 1, PROMPT_WIDTH), 1
    ).to(device())
    backbone.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def encode(images: torch.Tensor) -> torch.Tensor:
        return backbone.encode(images.to(device()))

    with tqdm(total=len(dataset), desc='latents', unit='frame', mininterval=5) as bar:
        for done in encode_dataset(file, dataset, encode, source, arguments.seed):
            bar.update(done - bar.n)


def _denoiser(arguments: argparse.Namespace, dataset: Dataset) -> None:
    folder = arguments.out / 'unet'
    if has_weights(folder):
        print(f'{folder} exists: the denoiser is trained')
        return
    source = _source(arguments, dataset)
    latents = latents_of(arguments.out / 'latents.safetensors', source)
    assert latents is not None
    latents = latents.to(device())
    state = arguments.out / 'unet_training'
    unet, copied = _fresh_denoiser(arguments)
    if copied:
        print(f'{copied:.0%} of the denoiser is copied from {arguments.denoiser_from}')
    if not arguments.denoiser_steps:
        save_model(folder, unet.eval(), torch.float32)
        return
    config = TrainingConfig(
        steps=arguments.denoiser_steps,
        batch_size=arguments.batch_size,
        learning_rate=5e-4,
        precision=arguments.precision,
        seed=arguments.seed,
    )
    height, width = arguments.denoiser_size
    stride = dataset.images([0]).shape[-1] // latents.shape[-1]
    log = train_denoiser(
        unet,
        latents,
        dataset.draw,
        torch.zeros(1, 1, PROMPT_WIDTH),
        config,
        (height // stride, width // stride),
        state,
        {
            'data': source,
            'channels': list(arguments.denoiser_channels),
            'from': str(arguments.denoiser_from),
        },
    )
    follow('denoiser', log, config, arguments.out)
    save_model(folder, unet.eval(), torch.float32)
    discard_state(state)


def _fresh_denoiser(arguments: argparse.Namespace) -> tuple[torch.nn.Module, float]:
    """Return a new denoiser and the fraction of its weights copied from another one."""
    unet = small_unet(arguments.denoiser_channels)
    if arguments.denoiser_from is None:
        return unet, 0.0
    folder = base_folder(arguments.denoiser_from) / 'unet'
    return unet, take_over(unet, load_unet(folder, Reader()))


def _source(arguments: argparse.Namespace, dataset: Dataset) -> str:
    return f'{dataset.fingerprint()} {weights_fingerprint(arguments.out / "vae")}'
