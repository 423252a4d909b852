"""Load a model from a checkpoint folder, our own or any official layout, and save one."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
import logging
from pathlib import Path
from typing import Any

import torch

from sd_perception_ros.backbones.backbone import Backbone
from sd_perception_ros.backbones.latent import LatentBackbone
from sd_perception_ros.backbones.onestep import OneStep
from sd_perception_ros.backbones.unet import UNetBackbone
from sd_perception_ros.checkpoint.assembly import Assembly
from sd_perception_ros.checkpoint.config_file import (
    CheckpointConfig,
    CheckpointFile,
    FILE,
    open_checkpoint,
    TaskEntry,
    write_config,
)
from sd_perception_ros.checkpoint.heads import load_head
from sd_perception_ros.checkpoint.licenses import with_terms
from sd_perception_ros.checkpoint.locations import BackboneFiles, Locations, PROMPT
from sd_perception_ros.checkpoint.reader import Reader
from sd_perception_ros.checkpoint.steps import step_options
from sd_perception_ros.checkpoint.weights import save_model, save_tensors
from sd_perception_ros.heads.deconv import DeconvHead
from sd_perception_ros.heads.dpt import DPTHead
from sd_perception_ros.heads.head import Head
from sd_perception_ros.heads.light import LightHead
from sd_perception_ros.model import Model
from sd_perception_ros.tasks import CROP_TASKS, make_task
from sd_perception_ros.tasks.person_pose import SKELETONS
from sd_perception_ros.tasks.task import Task

_SAVED_HEADS: dict[type[Head], str] = {
    LightHead: 'light',
    DPTHead: 'dpt',
    DeconvHead: 'deconv',
}
LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class CheckpointFiles:
    """
    All local files of the model of a checkpoint, found before any of them is read.

    :ivar path: path of checkpoint.yaml.
    :ivar config: its options, with the licence of the models if the file names none.
    :ivar tasks: the wanted tasks.
    :ivar backbones: files by the denoiser's location in checkpoint.yaml.
    :ivar head_weights: weights of heads by task, if the file names them.
    """

    path: Path
    config: CheckpointConfig
    tasks: dict[str, TaskEntry]
    backbones: dict[str, BackboneFiles]
    head_weights: dict[str, Path]


def load(
    checkpoint: str | CheckpointFile, tasks: Collection[str] = (), device: str = 'cpu'
) -> tuple[Model, CheckpointConfig]:
    """
    Load a model in float32 on the CPU, ready to serve.

    :param checkpoint: a known name, a folder, a checkpoint.yaml, or an open one.
    :param tasks: the tasks to load; empty: all.
    :param device: 'meta' loads shapes without values, to check names and shapes in seconds.
    :raises FileNotFoundError: a file is missing.
    :raises ValueError: a file is broken or does not fit, or the checkpoint lacks a task.
    """
    files = find_files(checkpoint, tasks)
    reader = Reader(files.config.sha256, device)
    model = _build(files, reader)
    _log_files(reader, files.config)
    return model, files.config


def load_on_meta(
    checkpoint: str | CheckpointFile, tasks: Collection[str] = ()
) -> tuple[Model, CheckpointConfig]:
    """
    Load a model without weight values; `Model.materialize` reads them later.

    All files are hashed. Arguments and errors are those of `load`.
    """
    files = find_files(checkpoint, tasks)
    reader = Reader(files.config.sha256, 'meta', hashes={})
    model = _build(files, reader)
    _log_files(reader, files.config)
    model.load_weights = lambda: _build(files, Reader(files.config.sha256, 'cpu', reader.hashes))
    return model, files.config


def find_files(
    checkpoint: str | CheckpointFile, tasks: Collection[str] = (), offline: bool = False
) -> CheckpointFiles:
    """
    Find the files of some tasks, after a download if they are on the hub.

    :param tasks: the tasks; empty: all.
    :param offline: never use the network. Errors are those of `load`.
    """
    path, config = open_checkpoint(checkpoint) if isinstance(checkpoint, str) else checkpoint
    for task in tasks:
        if task not in config.tasks:
            raise ValueError(
                f"{path} has no task '{task}'; choose from: {', '.join(config.tasks)}"
            )
    entries = {name: entry for name, entry in config.tasks.items() if name in (tasks or [name])}
    locations = Locations(
        path.parent,
        config.base,
        config.vae,
        config.prompt,
        offline,
        config.tiny_encoder,
        config.tiny_decoder,
    )
    head_weights = {
        task: locations.local_path(entry.head_weights)
        for task, entry in entries.items()
        if entry.head_weights
    }
    try:
        backbones = {
            unet: locations.files_of(unet)
            for unet in dict.fromkeys(entry.unet for entry in entries.values())
        }
    except ValueError as error:
        raise ValueError(f'{path}: {error}') from None
    terms = [one for files in backbones.values() for one in files.terms]
    name, source = with_terms(config, terms)
    config = replace(config, license=name, license_source=source)
    return CheckpointFiles(path, config, entries, backbones, head_weights)


def _build(files: CheckpointFiles, reader: Reader) -> Model:
    """Read all files with `reader` and build the model on its device."""
    path, config = files.path, files.config
    joint_heads = {task: _joint_head(entry, files, task) for task, entry in files.tasks.items()}
    tasks = {
        task: _make_task(task, entry, joint_heads[task], f'{path}: tasks.{task}')
        for task, entry in files.tasks.items()
    }
    decodes = not all(joint_heads.values())
    assembly = Assembly(reader, decodes, config.prompt_tokens)
    options = step_options(config)
    backbones: dict[str, Backbone] = {}
    for unet, backbone_files in files.backbones.items():
        try:
            with reader.record_files() as recorded:
                backbone = assembly.backbone(backbone_files, options)
        except ValueError as error:
            raise ValueError(f'{path}: {error}') from None
        backbone.weights_digest = reader.weights_digest(recorded, backbone.state_dict())
        backbones[unet] = backbone
    heads: dict[str, Head] = {}
    for task, entry in files.tasks.items():
        kind, weights = 'deconv', joint_heads[task]
        if weights is None:
            kind, weights = _head_of(entry, files, task, backbones[entry.unet])
        where, channels = f"{path}: tasks.{task}, '{entry.unet}'", tasks[task].channels
        with reader.record_files() as recorded:
            head = load_head(where, kind, weights, channels, backbones[entry.unet], reader)
        head.weights_digest = reader.weights_digest(recorded, head.state_dict())
        heads[task] = head
    if reader.verifies and len(files.tasks) == len(config.tasks):
        reader.check_all_met()
    backbone_of = {task: entry.unet for task, entry in files.tasks.items()}
    model = Model(backbones, tasks, heads, backbone_of).to(reader.device)
    return model.eval().requires_grad_(False)


def _joint_head(entry: TaskEntry, files: CheckpointFiles, task: str) -> Path | None:
    """Return the weights of a heat map head (SDPose); None for a task with another head."""
    beside = files.backbones[entry.unet].layout.joint_head
    if entry.head == 'deconv':
        weights = files.head_weights.get(task, beside)
        if weights is None:
            raise ValueError(
                f"{files.path}: tasks.{task}: a 'deconv' head has weights; name them in "
                'head_weights, or a unet folder with decoder/decoder.safetensors beside it'
            )
        return weights
    return beside if entry.head == 'auto' and task in CROP_TASKS else None


def _make_task(task: str, entry: TaskEntry, joint_head: Path | None, where: str) -> Task:
    """Make a task with its options; the weights of a heat map head determine the joints."""
    if joint_head is None:
        return make_task(task, entry.options, where)
    shapes = Reader(device='meta').read(joint_head)
    weight = shapes.get('final_layer.weight')
    count = 0 if weight is None else len(weight)
    skeletons = {len(joints): name for name, joints in SKELETONS.items()}
    if count not in skeletons:
        raise ValueError(
            f'{where}: expected a head with {" or ".join(map(str, skeletons))} heat maps in '
            f'{joint_head}, got {count or "no final_layer.weight"}'
        )
    options = {'skeleton': skeletons[count]} | entry.options
    return make_task(task, options, where, reads_crops=True)


def _head_of(
    entry: TaskEntry, files: CheckpointFiles, task: str, backbone: Backbone
) -> tuple[str, Path | None]:
    """Return the kind and the weights of the head of a task."""
    weights = files.head_weights.get(task)
    if entry.head not in ('auto', 'dpt') or weights is not None:
        return entry.head, weights
    layout = files.backbones[entry.unet].layout
    came_with_head = layout.head is not None and (
        not backbone.outputs_latent or layout.head_is_inside
    )
    if entry.head == 'dpt' or came_with_head:
        return 'dpt', layout.head
    return 'decoder', None


def _log_files(reader: Reader, config: CheckpointConfig) -> None:
    for path, sha256 in reader.hashes.items():
        LOGGER.info('read %s, SHA-256 %s', path, sha256)
    source = f' ({config.license_source})' if config.license_source else ''
    LOGGER.info('licence of the weights: %s%s', config.license, source)


def save(
    folder: Path, model: Model, config: CheckpointConfig, dtype: torch.dtype = torch.float16
) -> None:
    """
    Write a model as a checkpoint folder that `load` reads; checkpoint.yaml is written last.

    :param model: its backbones share one VAE and have the same step.
    :param config: options of checkpoint.yaml; its tasks are taken from the model.
    :param dtype: number format of the weights.
    :raises OSError: a file cannot be written.
    """
    names: dict[str, str] = {}
    autoencoders = {'vae': 'vae'}
    steps: list[OneStep] = []
    for index, (key, backbone) in enumerate(model.backbones.items()):
        assert isinstance(backbone, LatentBackbone)
        kind = 'unet' if isinstance(backbone, UNetBackbone) else 'transformer'
        names[key] = kind if not index else f'{kind}_{index}'
        save_model(folder / 'vae', backbone.vae, dtype)
        tiny = {'tiny_encoder': backbone.tiny_encoder, 'tiny_decoder': backbone.tiny_decoder}
        for name, autoencoder in tiny.items():
            autoencoders[name] = '' if autoencoder is None else name
            if autoencoder is not None:
                save_model(folder / name, autoencoder, dtype)
        save_model(folder / names[key], backbone.denoiser, dtype)
        pooled = {} if backbone.pooled is None else {'pooled': backbone.pooled}
        save_tensors(folder / PROMPT, {'prompt': backbone.prompt} | pooled)
        steps.append(backbone.one_step)
    assert all(step == steps[0] for step in steps)
    tasks: dict[str, dict[str, Any]] = {}
    for name, task in model.tasks.items():
        head = model.heads[name]
        tasks[name] = {'unet': names[model.backbone_of[name]]}
        if isinstance(head, LightHead | DPTHead | DeconvHead):
            kind = _SAVED_HEADS[type(head)]
            weights = f'head_{name}.safetensors'
            if isinstance(head, DPTHead) and head.rectifies:  # see `ends_in_relu`
                weights = f'head_{name}/dpt_head/model.safetensors'
            save_tensors(folder / weights, head.state_dict(), dtype)
            tasks[name] |= {'head': kind, 'head_weights': weights}
        if asdict(task):
            tasks[name]['options'] = asdict(task)
    values = asdict(config) | autoencoders | {'base': '', 'prompt': PROMPT, 'tasks': tasks}
    step = {
        'timestep': round(steps[0].timestep),
        'prediction_type': steps[0].prediction_type,
        'alpha': round(steps[0].alpha, 8),
        'final_alpha': round(steps[0].final_alpha, 8),
    }
    write_config(folder / FILE, values | step | {'sha256': {}})
