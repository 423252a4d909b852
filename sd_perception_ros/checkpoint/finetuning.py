"""A model to fine-tune: a pre-trained backbone, or a checkpoint, and a head for each task."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL

from sd_perception_ros.backbones.backbone import Backbone
from sd_perception_ros.checkpoint.assembly import Assembly
from sd_perception_ros.checkpoint.checkpoint import find_files, load
from sd_perception_ros.checkpoint.config_file import (
    CheckpointConfig,
    FILE,
    open_checkpoint,
    SHIPPED,
)
from sd_perception_ros.checkpoint.heads import make_head
from sd_perception_ros.checkpoint.hub import is_on_hub, on_disk
from sd_perception_ros.checkpoint.layouts import JOINT_HEAD
from sd_perception_ros.checkpoint.locations import Locations
from sd_perception_ros.checkpoint.reader import Reader
from sd_perception_ros.checkpoint.steps import step_options
from sd_perception_ros.checkpoint.weights import load_vae
from sd_perception_ros.heads.head import Head
from sd_perception_ros.model import Model
from sd_perception_ros.tasks import make_task
from sd_perception_ros.tasks.task import Task


def model_to_finetune(
    base: Path,
    tasks: Collection[str],
    head: str,
    timestep: int = -1,
    options: Mapping[str, Mapping[str, Any]] | None = None,
) -> Model:
    """
    Make a model to fine-tune: a pre-trained backbone, and a head for each task.

    :param base: diffusers folder of a UNet or a transformer, local or on the hub, with
        prompt.safetensors or text encoders; or a checkpoint, by folder or known name. A
        checkpoint's heads are kept, except those of tasks whose new options give the output
        another meaning, such as other classes.
    :param tasks: all of them share the denoiser.
    :param head: kind of new heads, one of `NEW_HEADS`.
    :param timestep: of the denoiser; -1: `finetuning_step` chooses it.
    :param options: options by task that differ from the defaults or from the checkpoint.
    :raises FileNotFoundError: a file is missing.
    :raises ValueError: options of a task that is not in `tasks`, or unknown options; an
        impossible timestep; a kind of head that does not fit a task.
    """
    options = options or {}
    if unknown := set(options) - set(tasks):
        raise ValueError(f'options of {sorted(unknown)}, but the tasks are {list(tasks)}')
    if is_checkpoint(base):
        return _with_tasks(base, tasks, head, options)
    files = Locations(Path()).files_of(str(base))
    step = step_options(CheckpointConfig(timestep=timestep))
    backbone = Assembly(Reader()).backbone(files, step, for_training=True)
    made = {task: make_task(task, options.get(task)) for task in tasks}
    heads = {name: _new_head(head, task, backbone) for name, task in made.items()}
    return Model({'unet': backbone}, made, heads, dict.fromkeys(made, 'unet'))


def _new_head(kind: str, task: Task, backbone: Backbone) -> Head:
    if kind == 'dpt' and task.truth != 'depth_m':
        raise ValueError(
            f"a 'dpt' head stretches each output to its full range, which suits only depth and "
            f"disparity; choose 'light' for {task.name}"
        )
    return make_head(kind, task.channels, backbone)


def kl_encoder(base: Path) -> AutoencoderKL:
    """
    Read the encoder of a base, for a tiny one to imitate.

    :param base: as in `model_to_finetune`.
    :raises FileNotFoundError: a file is missing.
    :raises ValueError: the base has a tiny encoder, or no encoder.
    """
    if is_checkpoint(base):
        files = find_files(str(base))
        [first, *_] = files.backbones.values()
        folder = first.vae
        if first.tiny_encoder is not None:
            raise ValueError(
                f'{files.path} has a tiny_encoder already; remove that line, so that both '
                'encoders can be compared'
            )
    else:
        folder = Locations(Path()).local_path(str(base)) / 'vae'
    vae = load_vae(folder, Reader(), decodes=False)
    if not isinstance(vae, AutoencoderKL):
        raise ValueError(
            f'{folder}: expected an AutoencoderKL to imitate, got {type(vae).__name__}; choose a '
            'base with the KL autoencoder'
        )
    return vae


def base_folder(base: Path) -> Path:
    """Return the local folder of a base: a folder, a location on the hub, or a known name."""
    if is_on_hub(str(base)):
        return on_disk(str(base))
    return open_checkpoint(str(base)).path.parent if is_checkpoint(base) else base


def is_checkpoint(base: Path) -> bool:
    """Return whether this names a checkpoint, not a diffusers folder."""
    folders = (SHIPPED / base, base)
    return any((f / name).is_file() for f in folders for name in (FILE, JOINT_HEAD))


def _with_tasks(
    base: Path, tasks: Collection[str], head: str, options: Mapping[str, Mapping[str, Any]]
) -> Model:
    """Return a checkpoint's model with these tasks; missing tasks get new heads."""
    checkpoint = open_checkpoint(str(base))
    in_checkpoint = [task for task in tasks if task in checkpoint.config.tasks]
    loaded = in_checkpoint or list(checkpoint.config.tasks)[:1]
    model, _ = load(checkpoint, loaded)
    crops = [task for task in in_checkpoint if model.tasks[task].reads_crops]
    if crops and (others := [task for task in tasks if task not in crops]):
        raise ValueError(
            f'{base}: {", ".join(crops)} reads crops of people, and {", ".join(others)} whole '
            'pictures; train them one after the other'
        )
    if len(model.backbones) > 1:
        raise ValueError(
            f'{base} has {len(model.backbones)} denoisers for {", ".join(in_checkpoint)}, but '
            'training needs a single one: name tasks that share it'
        )
    made = {
        t: make_task(t, {**_options_of(model, t), **options.get(t, {})}, reads_crops=t in crops)
        for t in tasks
    }
    kept = [t for t in in_checkpoint if _meaning(made[t]) == _meaning(model.tasks[t])]
    if changed := [task for task in crops if task not in kept]:
        raise ValueError(
            f'{base}: the joints of {", ".join(changed)} are those of its head; remove the option '
            'skeleton'
        )
    [(key, backbone)] = model.backbones.items()
    heads = {
        name: model.heads[name] if name in kept else _new_head(head, task, backbone)
        for name, task in made.items()
    }
    return Model({key: backbone}, made, heads, dict.fromkeys(made, key))


def _options_of(model: Model, task: str) -> dict[str, Any]:
    return asdict(model.tasks[task]) if task in model.tasks else {}


def _meaning(task: Task) -> list[Any]:
    """Return the options that define the meaning of the output of a task."""
    return [task.channels, *(getattr(task, name) for name in task.meaning)]
