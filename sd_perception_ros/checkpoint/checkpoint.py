"""Load a model from a checkpoint folder, of ours or of any official layout, and save one."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from sd_perception_ros.backbones.backbone import Backbone
from sd_perception_ros.backbones.latent import LatentBackbone
from sd_perception_ros.backbones.unet import UNetBackbone
from sd_perception_ros.checkpoint.assembly import (
    log_files,
    PROMPT,
    Sources,
    step_options,
    step_values,
)
from sd_perception_ros.checkpoint.config_file import (
    CheckpointConfig,
    FILE,
    read_config,
    resolve,
    TaskEntry,
    UNKNOWN,
    write_config,
)
from sd_perception_ros.checkpoint.heads import load_head
from sd_perception_ros.checkpoint.layouts import Layout
from sd_perception_ros.checkpoint.weight_files import Reader
from sd_perception_ros.checkpoint.weights import save_model, save_tensors
from sd_perception_ros.heads.dpt import DPTHead
from sd_perception_ros.heads.light import LightHead
from sd_perception_ros.model import Model
from sd_perception_ros.tasks import make_task


def load(
    name: str, tasks: Collection[str] = (), device: str = 'cpu'
) -> tuple[Model, CheckpointConfig]:
    """
    Load a model, in float32 on the CPU, ready to serve.

    :param name: a known name, a folder or a file, as `resolve` takes it.
    :param tasks: the tasks to load; empty: all of the checkpoint.
    :param device: 'meta' reads no numbers: it proves that all names and shapes fit, in seconds.
    :raises FileNotFoundError: a file is missing.
    :raises ValueError: a file is broken, does not fit, or lacks a task.
    """
    model, config, _ = _read_model(name, tasks, device, None)
    return model, config


def load_on_meta(name: str, tasks: Collection[str] = ()) -> tuple[Model, CheckpointConfig]:
    """
    Load a model without its numbers: it knows what they are, and reads them when asked for.

    All files are hashed, as `load` does. Arguments and errors are those of `load`.
    """
    model, config, hashes = _read_model(name, tasks, 'meta', {})
    model.load = lambda: _read_model(name, tasks, 'cpu', hashes)[0]
    return model, config


def _read_model(
    name: str,
    tasks: Collection[str],
    device: str,
    hashes: Mapping[str, str] | None,
) -> tuple[Model, CheckpointConfig, dict[str, str]]:
    """
    Load as `load` does.

    :param hashes: as `Reader` takes them.
    :returns: model, config, and the hashes of all files.
    """
    file = resolve(name)
    config, entries = read_config(file)
    for task in tasks:
        if task not in entries:
            raise ValueError(f"{file} has no task '{task}'; choose from: {', '.join(entries)}")
    entries = {name: entry for name, entry in entries.items() if name in (tasks or entries)}
    made = {
        task: make_task(task, entry.options, f'{file}: tasks.{task}')
        for task, entry in entries.items()
    }
    reader = Reader(config.sha256, device, hashes)
    sources = Sources(file.parent, config.base, config.vae, config.prompt, reader)
    step = step_options(config.timestep, config.prediction, config.signal)
    backbones: dict[str, Backbone] = {}
    backbone_of = {task: entry.unet for task, entry in entries.items()}
    for unet in dict.fromkeys(backbone_of.values()):
        try:
            with reader.noting() as files:
                backbones[unet] = sources.backbone(unet, step)
            backbones[unet].origin = reader.origin(files, backbones[unet].state_dict())
        except ValueError as error:
            raise ValueError(f'{file}: {error}') from None
    heads = {}
    for task, entry in entries.items():
        kind, weights = _head_of(sources, entry, backbones[entry.unet])
        where = f"{file}: tasks.{task}, '{entry.unet}'"
        backbone = backbones[entry.unet]
        with reader.noting() as files:
            heads[task] = load_head(where, kind, weights, made[task].channels, backbone, reader)
        heads[task].origin = reader.origin(files, heads[task].state_dict())
    if reader.verifies and len(entries) == len(config.tasks):
        reader.check_all_met()
    if config.license == UNKNOWN:
        found = [sources.license_of(unet) for unet in backbones]
        config = replace(config, license=', '.join(dict.fromkeys(filter(None, found))) or UNKNOWN)
    if not hashes:  # or the outline has said so
        log_files(reader, config.license)
    model = Model(backbones, made, heads, backbone_of).to(device)
    return model.eval().requires_grad_(False), config, reader.hashes


def _head_of(sources: Sources, entry: TaskEntry, backbone: Backbone) -> tuple[str, Path | None]:
    """Return the kind of a task's readout and where its weights lie."""
    given = sources.place(entry.head_weights) if entry.head_weights else None
    if entry.head not in ('auto', 'dpt') or given is not None:
        return entry.head, given
    beside = sources.layout(entry.unet)
    came_with_head = beside.head is not None and (
        not backbone.gives_latent or _is_within(beside, sources.place(entry.unet))
    )
    if entry.head == 'dpt' or came_with_head:
        return 'dpt', beside.head
    return 'decoder', None


def _is_within(layout: Layout, place: Path) -> bool:
    """Return whether a head lies in the named folder, not merely beside several models."""
    return layout.head is not None and layout.head.parent == place


def save(
    folder: Path, model: Model, config: CheckpointConfig, dtype: torch.dtype = torch.float16
) -> None:
    """
    Write a model as a checkpoint folder that `load` reads; checkpoint.yaml comes last.

    :param model: all of its backbones are on one VAE, and run in the same step.
    :param config: everything but the tasks, which are taken from the model.
    """
    names: dict[str, str] = {}
    steps = []
    for index, (key, backbone) in enumerate(model.backbones.items()):
        assert isinstance(backbone, LatentBackbone)
        kind = 'unet' if isinstance(backbone, UNetBackbone) else 'transformer'
        names[key] = kind if not index else f'{kind}_{index}'
        save_model(folder / 'vae', backbone.vae, dtype)
        save_model(folder / names[key], backbone.denoiser, dtype)
        pooled = {} if backbone.pooled is None else {'pooled': backbone.pooled}
        save_tensors(folder / PROMPT, {'prompt': backbone.prompt} | pooled)
        steps.append(step_values(backbone.one_step))
    assert all(step == steps[0] for step in steps)
    tasks: dict[str, dict[str, Any]] = {}
    for name, task in model.tasks.items():
        head = model.heads[name]
        tasks[name] = {'unet': names[model.backbone_of[name]]}
        if isinstance(head, LightHead | DPTHead):
            kind = 'light' if isinstance(head, LightHead) else 'dpt'
            weights = f'head_{name}.safetensors'
            if isinstance(head, DPTHead) and head.rectifies:  # the folder's name says so
                weights = f'head_{name}/dpt_head/model.safetensors'
            save_tensors(folder / weights, head.state_dict(), dtype)
            tasks[name] |= {'head': kind, 'head_weights': weights}
        if asdict(task):
            tasks[name]['options'] = asdict(task)
    values = asdict(config) | {'base': '', 'vae': 'vae', 'prompt': PROMPT, 'tasks': tasks}
    values |= steps[0] | {'sha256': {}}
    write_config(folder / FILE, values)
