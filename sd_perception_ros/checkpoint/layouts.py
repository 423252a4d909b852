"""Folder layouts: find a denoiser and the models beside it by the files of a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sd_perception_ros.checkpoint.weight_files import has_weights

DENOISERS = ('unet', 'transformer')  # subfolders of diffusers pipelines
DPT_HEADS = ('dpt_head_identity', 'dpt_head')
JOINT_HEAD = Path('decoder', 'decoder.safetensors')  # of SDPose, beside the denoiser
DECODER = ('vae_decoder', 'vae_post_quant_conv')


@dataclass(frozen=True)
class DenoiserLayout:
    """
    Folders of one denoiser and of the models beside it.

    :ivar denoiser: model folder or safetensors file; None: an experiment that did not change the
        denoiser of its base.
    :ivar pipeline: the diffusers pipeline folder around it (scheduler, text encoders).
    :ivar vae: autoencoder beside it.
    :ivar head: DPT head that was trained with it.
    :ivar head_is_inside: the head lies inside the named folder, not beside several models.
    :ivar joint_head: heat map head that was trained with it (SDPose).
    :ivar decoder: folder that holds a fine-tuned VAE decoder (`DECODER`).
    """

    denoiser: Path | None
    pipeline: Path | None = None
    vae: Path | None = None
    head: Path | None = None
    head_is_inside: bool = False
    joint_head: Path | None = None
    decoder: Path | None = None


def find_layout(path: Path) -> DenoiserLayout:
    """
    Recognise a folder: a model, a diffusers pipeline, or an experiment of GenPercept.

    :param path: model folder, safetensors file, or the folder around models.
    :raises FileNotFoundError: none of these; the message lists what the folder has.
    """
    if path.is_file() or has_weights(path):
        denoiser: Path | None = path
        outer = path.parent
        is_outer_known = path.name in DENOISERS
    else:
        denoiser = next((path / name for name in DENOISERS if has_weights(path / name)), None)
        outer, is_outer_known = path, True
    head = next((outer / name for name in DPT_HEADS if has_weights(outer / name)), None)
    has_decoder = is_outer_known and all(has_weights(outer / name) for name in DECODER)
    if denoiser is None and head is None and not has_decoder:
        names = ', '.join(sorted(f.name for f in path.iterdir())[:8]) if path.is_dir() else ''
        raise FileNotFoundError(
            f'expected a denoiser (a model folder with safetensors, a folder with '
            f'{" or ".join(DENOISERS)}, or an experiment with {DPT_HEADS[0]} or {DECODER[0]}), '
            f'found none at {path}' + (f', which has {names}' if names else '')
        )
    is_pipeline = (outer / 'model_index.json').is_file() or (
        is_outer_known and (outer / 'vae').is_dir() and (outer / 'scheduler').is_dir()
    )
    return DenoiserLayout(
        denoiser,
        outer if is_pipeline else None,
        outer / 'vae' if has_weights(outer / 'vae') else None,
        head,
        head is not None and head.parent == path,
        outer / JOINT_HEAD if (outer / JOINT_HEAD).is_file() else None,
        outer if has_decoder else None,
    )
