"""Which layout a folder of weights has, told by its files, configs and tensor shapes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
import json
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn, Tensor

from sd_perception_ros.backbones.latent import LatentBackbone, Prompt
from sd_perception_ros.backbones.onestep import balanced, of_scheduler, OneStep
from sd_perception_ros.backbones.transformers import FAMILIES, TransformerBackbone
from sd_perception_ros.backbones.unet import UNetBackbone
from sd_perception_ros.checkpoint.lora import has_adapters, is_alone, merge_adapters
from sd_perception_ros.checkpoint.weight_files import has_weights, Reader
from sd_perception_ros.checkpoint.weights import CONFIGS, load_into, make, modern, read_config

DENOISERS = ('unet', 'transformer')  # what pipelines of diffusers call the folder
DPT_HEADS = ('dpt_head_identity', 'dpt_head')
DECODER = ('vae_decoder', 'vae_post_quant_conv')
LAST = ('conv_norm_out', 'conv_act', 'conv_out')  # of a UNet


@dataclass(frozen=True)
class Layout:
    """
    Where the parts lie that one denoiser came with.

    :ivar denoiser: its model folder; None in an experiment that left it as it was.
    :ivar pipeline: the folder in the layout of diffusers around it, which has the rest.
    :ivar vae: an autoencoder beside it.
    :ivar head: a DPT head that was trained with it.
    :ivar decoder: the folder of a fine-tuned VAE decoder (`vae_decoder`, `vae_post_quant_conv`).
    """

    denoiser: Path | None
    pipeline: Path | None = None
    vae: Path | None = None
    head: Path | None = None
    decoder: Path | None = None


def find_layout(path: Path) -> Layout:
    """
    Look at a folder: a model, a pipeline of diffusers, or an experiment of GenPercept.

    :raises FileNotFoundError: none of these; says what it has.
    """
    if path.is_file() or has_weights(path):
        denoiser: Path | None = path
        outer = path.parent
        beside = path.name in DENOISERS
    else:
        named = [path / name for name in DENOISERS if has_weights(path / name)]
        denoiser, outer, beside = (named[0] if named else None), path, True
    head = next((outer / name for name in DPT_HEADS if has_weights(outer / name)), None)
    decoder = outer if beside and all(has_weights(outer / name) for name in DECODER) else None
    if denoiser is None and head is None and decoder is None:
        there = ', '.join(sorted(f.name for f in path.iterdir())[:8]) if path.is_dir() else ''
        raise FileNotFoundError(
            f'expected a denoiser (a model folder with safetensors, a folder with '
            f'{" or ".join(DENOISERS)}, or an experiment with {DPT_HEADS[0]} or {DECODER[0]}), '
            f'found none at {path}' + (f', which has {there}' if there else '')
        )
    is_pipeline = (outer / 'model_index.json').is_file() or (
        beside and (outer / 'vae').is_dir() and (outer / 'scheduler').is_dir()
    )
    vae = outer / 'vae' if has_weights(outer / 'vae') else None
    return Layout(denoiser, outer if is_pipeline else None, vae, head, decoder)


def holds_adapters_alone(folder: Path) -> bool:
    """Return whether a model folder holds adapters without the model that they change."""
    return is_alone(Reader(device='meta').read(folder))


def load_denoiser(
    folder: Path, fallback: Path | None = None, reader: Reader | None = None
) -> nn.Module:
    """
    Read a UNet or a transformer, its adapters merged.

    Official GenPercept folders have no config.json: then it is the fallback's, else Stable
    Diffusion 2.1's, and the tensors say how many channels go in, which text encoder it reads, and
    whether it has Lotus's switch. Those with a DPT head lack the last convolution and its
    normalisation: then both are the identity, and the UNet is good for its features only.

    :param fallback: folder of the model that this one was fine-tuned from.
    """
    reader = reader or Reader()
    own = folder if folder.is_dir() else folder.parent
    weights = reader.read(folder)
    if has_adapters(weights):
        base = reader.read(fallback) if fallback is not None and is_alone(weights) else None
        weights = merge_adapters(weights, base, own)
    config = read_config(own, fallback or CONFIGS / 'sd21_unet.json')
    family = family_of(config, own)
    if family is not None:
        return _float(make(family.model_of(config), config, weights, folder))
    if not (own / 'config.json').is_file():
        config |= told_by_tensors(weights)
    cut_off = not any(name.startswith('conv_out.') for name in weights)
    if cut_off:
        weights = {n: t for n, t in weights.items() if not n.startswith('conv_norm_out.')}
    return _float(make(UNet2DConditionModel, config, weights, folder, LAST if cut_off else ()))


def _float(model: Any) -> nn.Module:
    module: nn.Module = model
    return module


def family_of(config: Mapping[str, Any], folder: Path) -> type[TransformerBackbone] | None:
    """
    Return the transformer family of a config, None for a UNet.

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


def told_by_tensors(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the options of a UNet's config that its tensors tell."""
    told: dict[str, Any] = {}
    if 'conv_in.weight' in weights and weights['conv_in.weight'].ndim == 4:
        told['in_channels'] = weights['conv_in.weight'].shape[1]
    keys = [n for n in weights if n.endswith('attn2.to_k.weight') and weights[n].ndim == 2]
    if keys:
        told['cross_attention_dim'] = weights[keys[0]].shape[1]
    switch = weights.get('class_embedding.linear_1.weight')
    if switch is not None:
        told['class_embed_type'] = 'projection'
        told['projection_class_embeddings_input_dim'] = switch.shape[1]
    return told


def load_decoder(vae: AutoencoderKL, folder: Path, reader: Reader | None = None) -> AutoencoderKL:
    """Return an autoencoder with this one's own encoder and a fine-tuned decoder."""
    reader = reader or Reader()
    # On the meta device: the encoder is shared, and the decoder is about to come.
    tuned = make(AutoencoderKL, vae.config, vae.state_dict(), folder)
    tuned.encoder, tuned.quant_conv = vae.encoder, vae.quant_conv
    for name in DECODER:
        part = getattr(tuned, name.removeprefix('vae_'))
        load_into(part, modern(reader.read(folder / name)), folder / name).float()
    return tuned


def one_step_of(
    layout: Layout,
    denoiser: Any,
    latent_channels: int,
    timestep: float | None = None,
    prediction: str = '',
    signal: float | None = None,
) -> OneStep:
    """
    Return how a denoiser's own layout runs it, but for what is given.

    - with Lotus's switch: at 999, the output is the clean latent
    - a scheduler in the folder around it: that scheduler's noisiest step
    - two latents in: the noisiest step of Stable Diffusion 2's schedule (Marigold, E2E-FT)
    - else as `one_step_to_tune` says

    :raises ValueError: what is given has no solution.
    """
    config = denoiser.config
    scheduler = _scheduler_config(layout.pipeline)
    if config.get('class_embed_type') == 'projection':
        told = OneStep(999 if timestep is None else timestep, 'sample')
    elif scheduler is not None:
        told = of_scheduler(scheduler, timestep)
    elif config['in_channels'] == 2 * latent_channels:
        told = of_scheduler(SD2_SCHEDULE, timestep)
    else:
        told = one_step_to_tune(layout, denoiser, latent_channels, timestep)
    return OneStep(
        told.timestep if timestep is None else timestep,
        prediction or told.prediction,
        told.signal if signal is None else signal,
    )


def one_step_to_tune(
    layout: Layout, denoiser: Any, latent_channels: int, timestep: float | None = None
) -> OneStep:
    """
    Return the one step in which a pre-trained denoiser is best fine-tuned.

    - velocity: GenPercept's, x0 = -v at timestep 1
    - flow: from the picture's latent at the end of all noise straight to x0
    - epsilon: where signal and noise are equal, so that the output counts as much as velocity
      does; at the noisy end it would be multiplied by 14 (Stable Diffusion) or 157 (DiT)
    - two latents in, or Lotus's switch: as `one_step_of` runs it
    """
    config = denoiser.config
    if (
        config.get('class_embed_type') == 'projection'
        or config['in_channels'] == 2 * latent_channels
    ):
        return one_step_of(layout, denoiser, latent_channels, timestep)
    family = _family(denoiser)
    schedule = _scheduler_config(layout.pipeline) or (family.schedule if family else None)
    if schedule is None:
        return OneStep(1 if timestep is None else timestep)
    told = of_scheduler(schedule)
    if told.prediction == 'velocity':
        return OneStep(1 if timestep is None else timestep)
    if told.prediction == 'epsilon' and timestep is None:
        return balanced(schedule)
    return of_scheduler(schedule, timestep)


# Of stable-diffusion-2-1/scheduler/scheduler_config.json.
SD2_SCHEDULE = {
    'beta_start': 0.00085,
    'beta_end': 0.012,
    'beta_schedule': 'scaled_linear',
    'prediction_type': 'v_prediction',
}


def _scheduler_config(pipeline: Path | None) -> dict[str, Any] | None:
    file = pipeline / 'scheduler' / 'scheduler_config.json' if pipeline else None
    if file is None or not file.is_file():
        return None
    try:
        config: dict[str, Any] = json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f'{file} is not JSON ({error})') from None
    return config


def make_backbone(
    vae: AutoencoderKL, denoiser: nn.Module, prompt: Prompt, step: OneStep
) -> LatentBackbone:
    """Put a denoiser of any family between an autoencoder's halves."""
    family = _family(denoiser)
    if family is None:
        return UNetBackbone(vae, denoiser, prompt, step)
    return family(vae, denoiser, prompt, step)


def reads_text(denoiser: nn.Module) -> bool:
    """Return whether a denoiser needs the embedding of a prompt."""
    family = _family(denoiser)
    return family is None or family.reads_text


def _family(denoiser: nn.Module) -> type[TransformerBackbone] | None:
    return next((f for f in FAMILIES if isinstance(denoiser, f.model)), None)


def ends_in_relu(head: Path) -> bool:
    """
    Return whether an official DPT head ends in a rectifier; the tensors of both kinds are equal.

    config.json names the class, where it does; else the official code goes by the folder's name.
    """
    folder = head if head.is_dir() else head.parent
    if (folder / 'config.json').is_file():
        names = ' '.join(read_config(folder, None).get('architectures') or ())
        if 'DPTNeckHead' in names:
            return 'Identity' not in names
    return folder.name == 'dpt_head'
