"""Read denoisers and fine-tuned decoders of all published layouts into models of diffusers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn, Tensor

from sd_perception_ros.backbones.autoencoders import ENCODER, has_half, VAE
from sd_perception_ros.backbones.latent import LatentBackbone, Prompt
from sd_perception_ros.backbones.onestep import OneStep
from sd_perception_ros.backbones.transformers import FAMILIES, TransformerBackbone
from sd_perception_ros.backbones.unet import UNetBackbone
from sd_perception_ros.checkpoint.layouts import DECODER
from sd_perception_ros.checkpoint.lora import (
    has_adapters,
    is_adapters_only,
    merge_adapters,
    read_lora_options,
    refuse_foreign_adapters,
)
from sd_perception_ros.checkpoint.reader import Reader
from sd_perception_ros.checkpoint.weights import (
    build_module,
    CONFIGS,
    load_into,
    read_model_config,
    with_current_names,
)

# Inputs of class embeddings: sine and cosine of (1, 0) in Lotus and SDPose; in GeoWizard of 5.
SWITCH_INPUTS, GEOWIZARD_INPUTS = 4, 10
UNET_OUTPUT = ('conv_norm_out', 'conv_act', 'conv_out')  # the last modules of a UNet


def load_denoiser(folder: Path, base: Path | None, reader: Reader) -> nn.Module:
    """
    Read a UNet or a transformer in float32, with LoRA adapters merged.

    Official GenPercept folders have no config.json. Then the config is that of `base`, otherwise
    that of Stable Diffusion 2.1, with the options derived from the tensors (see
    `unet_config_from_tensors`). UNets that were trained with a DPT head lack the last convolution
    and its normalisation: both become the identity, and only the features are usable.

    :param folder: model folder, or safetensors file.
    :param base: folder of the model that it was fine-tuned from; its weights are read only if
        `folder` holds LoRA adapters without a model.
    :raises ValueError: config and weights do not fit.
    """
    config_folder = folder if folder.is_dir() else folder.parent
    weights = reader.read(folder)
    refuse_foreign_adapters(weights, folder)
    if has_adapters(weights):
        needs_base = base is not None and is_adapters_only(weights)
        base_weights = reader.read(base) if base is not None and needs_base else None
        weights = merge_adapters(weights, base_weights, read_lora_options(folder), config_folder)
    config = read_model_config(config_folder, base or CONFIGS / 'sd21_unet.json')
    family = transformer_family_from(config, config_folder)
    if family is not None:
        return _module(build_module(family.model_of(config), config, weights, folder))
    if not (config_folder / 'config.json').is_file():
        config |= unet_config_from_tensors(weights)
    has_output = any(name.startswith('conv_out.') for name in weights)
    if has_output:
        return _module(build_module(UNet2DConditionModel, config, weights, folder))
    weights = {n: t for n, t in weights.items() if not n.startswith('conv_norm_out.')}
    return _module(build_module(UNet2DConditionModel, config, weights, folder, UNET_OUTPUT))


def _module(model: Any) -> nn.Module:
    module: nn.Module = model
    return module


def transformer_family_from(
    config: Mapping[str, Any], folder: Path
) -> type[TransformerBackbone] | None:
    """
    Return the backbone class of a transformer's config.json, None for a UNet.

    :param folder: for the error message.
    :raises ValueError: a model of diffusers that is neither.
    """
    for family in FAMILIES:
        if family.claims(config):
            return family
    if 'down_block_types' in config or config.get('_class_name') == 'UNet2DConditionModel':
        return None
    names = ', '.join(f.__name__.removesuffix('Backbone') for f in FAMILIES)
    raise ValueError(
        f'{folder}: expected a UNet of Stable Diffusion or a transformer ({names}), got '
        f'{config.get("_class_name", "a config.json without _class_name")}'
    )


def transformer_family_of(denoiser: nn.Module) -> type[TransformerBackbone] | None:
    """Return the backbone class of a transformer, None for a UNet."""
    return next((f for f in FAMILIES if isinstance(denoiser, f.model)), None)


def unet_config_from_tensors(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return input channels, text width and class embedding of a UNet from its tensors."""
    options: dict[str, Any] = {}
    if 'conv_in.weight' in weights and weights['conv_in.weight'].ndim == 4:
        options['in_channels'] = weights['conv_in.weight'].shape[1]
    keys = [n for n in weights if n.endswith('attn2.to_k.weight') and weights[n].ndim == 2]
    if keys:
        options['cross_attention_dim'] = weights[keys[0]].shape[1]
    switch = weights.get('class_embedding.linear_1.weight')
    if switch is not None:
        options['class_embed_type'] = 'projection'
        options['projection_class_embeddings_input_dim'] = switch.shape[1]
    return options


def check_class_embedding(config: Any, predicts: str | None, is_chosen: bool, where: Path) -> None:
    """
    Refuse a UNet whose class embedding is not the task switch of Lotus and SDPose.

    Other models may have an embedding of the same size with another meaning: they would run and
    predict nonsense.

    :param config: config of a model of diffusers.
    :param predicts: prediction_type of the scheduler beside it; None: there is none.
    :param is_chosen: checkpoint.yaml states the step, or SDPose's head lies beside the UNet.
    :param where: for the error message.
    :raises ValueError: another class embedding.
    """
    kind, classes = config.get('class_embed_type'), config.get('num_class_embeds')
    if config.get('down_block_types') is None or (kind is None and classes is None):
        return
    inputs = config.get('projection_class_embeddings_input_dim')
    if kind == 'projection' and inputs == GEOWIZARD_INPUTS:
        raise ValueError(
            f'{where}: a class embedding of {inputs} inputs is that of GeoWizard, which is not '
            'supported: it needs the CLIP embedding of each image and a domain switch; choose '
            'E2E-FT or GenPercept (checkpoints lists them)'
        )
    if kind != 'projection' or inputs != SWITCH_INPUTS:
        raise ValueError(
            f'{where}: expected no class embedding, or that of Lotus and SDPose (projection, '
            f'{SWITCH_INPUTS} inputs), got {kind or "a table"} with {inputs or classes} inputs; '
            'its meaning is unknown'
        )
    if config['in_channels'] != config['out_channels']:
        raise ValueError(
            f'{where}: a class embedding of {inputs} inputs with {config["in_channels"]} channels '
            f'in and {config["out_channels"]} out is that of the generative Lotus (Lotus-G), '
            'which is not supported: it reads noise and answers differently in each run; choose '
            'Lotus-D (lotus_disparity, lotus_depth or lotus_normals)'
        )
    if predicts != 'sample' and not is_chosen:
        raise ValueError(
            f'{where}: a class embedding of {inputs} inputs that is neither of Lotus (its '
            f'scheduler has prediction_type sample, this one {predicts or "is missing"}) nor of '
            'SDPose (decoder/decoder.safetensors beside it); if it is, write timestep: 999 and '
            'prediction_type: sample into checkpoint.yaml'
        )


def load_decoder(vae: AutoencoderKL, folder: Path, reader: Reader) -> AutoencoderKL:
    """
    Return an autoencoder that shares the encoder of `vae` and has a fine-tuned decoder.

    :param folder: folder with the subfolders `DECODER`.
    """
    # On the meta device: the encoder is shared, and the decoder's weights come next.
    absent = () if has_half(vae, ENCODER) else ENCODER
    tuned = build_module(AutoencoderKL, vae.config, vae.state_dict(), folder, absent)
    tuned.encoder, tuned.quant_conv = vae.encoder, vae.quant_conv
    for name in DECODER:
        module = getattr(tuned, name.removeprefix('vae_'))
        weights = with_current_names(reader.read(folder / name))
        load_into(module, weights, folder / name).float()
    return tuned


def make_backbone(vae: VAE, denoiser: nn.Module, prompt: Prompt, step: OneStep) -> LatentBackbone:
    """Return the backbone of a denoiser of any family."""
    family = transformer_family_of(denoiser)
    if family is None:
        return UNetBackbone(vae, denoiser, prompt, step)
    return family(vae, denoiser, prompt, step)


def reads_text(denoiser: nn.Module) -> bool:
    """Return whether a denoiser needs the embedding of a prompt."""
    family = transformer_family_of(denoiser)
    return family is None or family.reads_text
