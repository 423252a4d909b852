"""A model to fine-tune: a pre-trained backbone, or a checkpoint, and a head for each task."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sd_perception_ros.backbones.backbone import Backbone
from sd_perception_ros.checkpoint.assembly import Sources, step_options
from sd_perception_ros.checkpoint.checkpoint import load
from sd_perception_ros.checkpoint.config_file import (
    CheckpointConfig,
    FILE,
    resolve,
    SHIPPED,
    tasks_of,
)
from sd_perception_ros.checkpoint.heads import make_head
from sd_perception_ros.checkpoint.hub import is_on_hub, on_disk
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
    Make a model to fine-tune: a pre-trained backbone, and a readout for each task.

    :param base: folder in the layout of diffusers, of a UNet or a transformer, here or on the
        hub; its prompt is prompt.safetensors or what its text encoders make of the empty prompt.
        Or a checkpoint, by folder or known name: then the readouts that it has go on, too, but
        for those whose answers mean something else with new options, such as other classes.
    :param tasks: all of them share the denoiser.
    :param head: one of `HEADS`.
    :param timestep: where it runs; -1: where such a model is best fine-tuned.
    :param options: what a task has instead of its defaults, or of the checkpoint's, by task.
    :raises FileNotFoundError: a file is missing.
    :raises ValueError: options of a task that is not there, or that it does not have; a timestep
        that no checkpoint takes; a head that a task cannot have.
    """
    options = options or {}
    if unknown := set(options) - set(tasks):
        raise ValueError(f'options of {sorted(unknown)}, but the tasks are {list(tasks)}')
    if is_checkpoint(base):
        return _go_on(base, tasks, head, options)
    step = step_options(CheckpointConfig(timestep=timestep).timestep, 'auto', -1)
    backbone = Sources(Path()).backbone(str(base), step, tunes=True)
    made = {task: make_task(task, options.get(task)) for task in tasks}
    heads = {name: _fresh_head(head, task, backbone) for name, task in made.items()}
    return Model({'unet': backbone}, made, heads, dict.fromkeys(made, 'unet'))


def _fresh_head(kind: str, task: Task, backbone: Backbone) -> Head:
    if kind == 'dpt' and task.truth != 'depth_m':
        raise ValueError(
            f"a 'dpt' head stretches each answer to its own range, which only depth and disparity "
            f"allow; choose 'light' for {task.name}"
        )
    return make_head(kind, task.channels, backbone)


def base_folder(base: Path) -> Path:
    """Return the local folder of a base to fine-tune, which may be on the hub or a known name."""
    if is_on_hub(str(base)):
        return on_disk(str(base))
    return resolve(str(base)).parent if is_checkpoint(base) else base


def is_checkpoint(base: Path) -> bool:
    """Return whether this names a checkpoint, not a folder in the layout of diffusers."""
    return any((folder / FILE).is_file() for folder in (SHIPPED / base, base))


def _go_on(
    base: Path, tasks: Collection[str], head: str, options: Mapping[str, Mapping[str, Any]]
) -> Model:
    """Return a checkpoint's model with these tasks, whose new readouts are fresh."""
    there = tasks_of(str(base))
    known = [task for task in tasks if task in there]
    model, _ = load(str(base), known or there[:1])
    made = {t: make_task(t, {**_options_of(model, t), **options.get(t, {})}) for t in tasks}
    kept = [task for task in known if _means(made[task]) == _means(model.tasks[task])]
    if len(model.backbones) > 1:
        raise ValueError(
            f'{base} has {len(model.backbones)} denoisers for {", ".join(known)}, and a training '
            'has one: name tasks that share it'
        )
    [(key, backbone)] = model.backbones.items()
    heads = {
        name: model.heads[name] if name in kept else _fresh_head(head, task, backbone)
        for name, task in made.items()
    }
    return Model({key: backbone}, made, heads, dict.fromkeys(made, key))


def _options_of(model: Model, task: str) -> dict[str, Any]:
    return asdict(model.tasks[task]) if task in model.tasks else {}


def _means(task: Task) -> list[Any]:
    """Return what the numbers of a task's answers mean."""
    return [task.channels, *(getattr(task, name) for name in task.meaning)]
