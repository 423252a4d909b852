"""A checkpoint: a folder with checkpoint.yaml and safetensors, ours or any official layout."""

from __future__ import annotations

from collections.abc import Collection, Mapping
import contextlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
import yaml

from sd_perception_ros.backbones.backbone import Backbone
from sd_perception_ros.backbones.prompt import embed_empty_prompt
from sd_perception_ros.backbones.unet import UNetBackbone
from sd_perception_ros.backbones.weights import (
    load_into,
    load_unet,
    load_vae,
    read_embedding,
    read_weights,
    save_model,
    save_tensors,
)
from sd_perception_ros.config import build, check, option
from sd_perception_ros.heads.decoder import DecoderHead
from sd_perception_ros.heads.dpt import DPTHead
from sd_perception_ros.heads.head import Head
from sd_perception_ros.heads.light import LightHead
from sd_perception_ros.model import Model
from sd_perception_ros.tasks import make_task

FILE = 'checkpoint.yaml'
PROMPT = 'prompt.safetensors'
HEADS = ('decoder', 'light', 'dpt')
SHIPPED = Path(__file__).parent / 'checkpoints'


@dataclass(frozen=True)
class TaskEntry:
    """Where one task's weights are. Paths are relative to checkpoint.yaml."""

    unet: str = option('unet', 'Folder of the denoiser; tasks that name the same one share it')
    head: str = option(
        'decoder', 'Readout: the VAE decoder, light convolutions, or DPT', choices=HEADS
    )
    head_weights: str = option('', 'Folder or file of the head, where it has weights')
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        check(self)


@dataclass(frozen=True)
class CheckpointConfig:
    """What checkpoint.yaml says. Paths are relative to that file."""

    tasks: dict[str, Any] = field(default_factory=dict)
    base: str = option('', 'diffusers pipeline folder that gives whatever is not named here')
    vae: str = option('', "Folder of the autoencoder; empty: the base's")
    prompt: str = option('', "Embedding of the empty prompt; empty: the base's text encoder")
    timestep: int = option(1, 'Frozen timestep of the denoiser', low=0, high=999)
    resize: str = option(
        'pad',
        'exact: as the official pipeline, which stretches; pad: to the stride, and crop back',
        choices=('exact', 'pad'),
    )
    long_side_px: int = option(
        768, "Longer side the network was trained for; 0: the picture's own", low=0, high=4096
    )
    license: str = option('unknown', 'Licence of the weights, logged when they are loaded')
    provenance: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        check(self)


def find(name: str) -> Path:
    """
    Return the checkpoint.yaml of a known name, a checkpoint folder or a file.

    :raises FileNotFoundError: there is none.
    """
    shipped = SHIPPED / name / FILE
    path = Path(name)
    with contextlib.suppress(RuntimeError):  # ~nobody: there is no such user
        path = path.expanduser()
    for candidate in (shipped, path / FILE, path):
        if name and candidate.is_file():
            return candidate
    known = ', '.join(sorted(folder.parent.name for folder in SHIPPED.glob(f'*/{FILE}')))
    hint = f'; {path} has no {FILE}: write one that names its unet' if path.is_dir() else ''
    raise FileNotFoundError(
        f'expected a checkpoint: a known name ({known}), a folder with {FILE}, or such a file; '
        f"got '{name}'{hint}"
    )


def read(file: Path) -> tuple[CheckpointConfig, dict[str, TaskEntry]]:
    """
    Read and check a checkpoint.yaml.

    :raises ValueError: not YAML, or an option that is unknown, missing or impossible.
    """
    try:
        values = yaml.safe_load(file.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = ' '.join(str(error).split())
        raise ValueError(
            f'{file} is not YAML ({reason}); name a {FILE}, or the folder that holds it'
        ) from None
    config = build(CheckpointConfig, values, str(file))
    if not isinstance(config.tasks, Mapping) or not config.tasks:
        raise ValueError(f"{file}: expected 'tasks', such as {{depth: {{unet: unet_depth_v2}}}}")
    entries = {
        name: build(TaskEntry, entry or {}, f'{file}: tasks.{name}')
        for name, entry in config.tasks.items()
    }
    return config, entries


def tasks_of(name: str) -> list[str]:
    """Return the tasks of a checkpoint; raises what `load` raises about its file."""
    return list(read(find(name))[1])


def load(name: str, tasks: Collection[str] = ()) -> tuple[Model, CheckpointConfig]:
    """
    Load a model, in float32 on the CPU, ready to serve.

    :param name: a known name, a folder or a file, as `find` takes it.
    :param tasks: the tasks to load; empty: all of the checkpoint.
    :raises FileNotFoundError: a file is missing.
    :raises ValueError: a file is broken, does not fit, or lacks a task.
    """
    file = find(name)
    config, entries = read(file)
    for task in tasks:
        if task not in entries:
            raise ValueError(f"{file} has no task '{task}'; choose from: {', '.join(entries)}")
    entries = {name: entry for name, entry in entries.items() if name in (tasks or entries)}
    made = {
        task: make_task(task, entry.options, f'{file}: tasks.{task}')
        for task, entry in entries.items()
    }
    base = file.parent / config.base if config.base else None
    vae = load_vae(_given(file, 'vae', config.vae, base))
    prompt = _prompt(file, config, base)
    backbones: dict[str, Backbone] = {}
    backbone_of = {task: entry.unet for task, entry in entries.items()}
    for unet in dict.fromkeys(backbone_of.values()):
        denoiser = load_unet(file.parent / unet, base / 'unet' if base else None)
        backbones[unet] = UNetBackbone(vae, denoiser, prompt, config.timestep)
    heads = {
        task: load_head(file, entry, made[task].channels, backbones[entry.unet])
        for task, entry in entries.items()
    }
    model = Model(backbones, made, heads, backbone_of)
    return model.eval().requires_grad_(False), config


def start(
    base: Path,
    tasks: Collection[str],
    head: str,
    timestep: int = 1,
    options: Mapping[str, Mapping[str, Any]] | None = None,
) -> Model:
    """
    Make a model to fine-tune: a pre-trained backbone, and a readout for each task.

    :param base: folder in the layout of diffusers; its prompt is prompt.safetensors or the text
        encoder's embedding of the empty prompt. Or a checkpoint, by folder or known name: then the
        readouts that it has go on, too, but for those of tasks with new options.
    :param tasks: all of them share the denoiser.
    :param head: one of `HEADS`.
    :param options: what a task has instead of its defaults, by task.
    :raises FileNotFoundError: a file is missing.
    :raises ValueError: options of a task that is not there, or that it does not have.
    """
    options = options or {}
    if unknown := set(options) - set(tasks):
        raise ValueError(f'options of {sorted(unknown)}, but the tasks are {list(tasks)}')
    if is_checkpoint(base):
        return _go_on(base, tasks, head, options)
    vae, unet = load_vae(base / 'vae'), load_unet(base / 'unet')
    config = CheckpointConfig(prompt=PROMPT if (base / PROMPT).is_file() else '')
    backbone = UNetBackbone(vae, unet, _prompt(base / FILE, config, base), timestep)
    made = {task: make_task(task, options.get(task)) for task in tasks}
    heads = {name: make_head(head, task.channels, backbone) for name, task in made.items()}
    return Model({'unet': backbone}, made, heads, dict.fromkeys(made, 'unet'))


def is_checkpoint(base: Path) -> bool:
    """Return whether this names a checkpoint, not a folder in the layout of diffusers."""
    return any((folder / FILE).is_file() for folder in (SHIPPED / base, base))


def _go_on(
    base: Path, tasks: Collection[str], head: str, options: Mapping[str, Mapping[str, Any]]
) -> Model:
    """Return a checkpoint's model with these tasks, whose new readouts are fresh."""
    there = tasks_of(str(base))
    kept = [task for task in tasks if task in there and task not in options]
    model, _ = load(str(base), kept or there[:1])
    if len(model.backbones) > 1:
        raise ValueError(
            f'{base} has {len(model.backbones)} denoisers for {", ".join(kept)}, and a training '
            'has one: name tasks that share it'
        )
    [(key, backbone)] = model.backbones.items()
    made = {t: model.tasks[t] if t in kept else make_task(t, options.get(t)) for t in tasks}
    heads = {
        name: model.heads[name] if name in kept else make_head(head, task.channels, backbone)
        for name, task in made.items()
    }
    return Model({key: backbone}, made, heads, dict.fromkeys(made, key))


def make_head(kind: str, channels: int, backbone: Backbone, width: int = 0) -> Head:
    """
    Make a readout with fresh weights.

    :param kind: 'decoder', 'light' or 'dpt'. A light head answers at half the resolution that
        the network sees.
    :param channels: of the task's raw output.
    :param width: channels inside a light or DPT head; 0: 32 for the few channels of a map, 64 for
        many.
    """
    width = width or (32 if channels <= 8 else 64)
    if kind == 'decoder':
        return DecoderHead(channels, backbone.decode)
    if kind == 'dpt':
        return DPTHead(channels, backbone.feature_channels, width)
    rise = max(backbone.stride // 2, 1)
    return LightHead(channels, backbone.feature_channels, backbone.latent_channels, rise, width)


def load_head(file: Path, entry: TaskEntry, channels: int, backbone: Backbone) -> Head:
    """Make a readout and give it its weights."""
    weights: dict[str, Tensor] = {}
    path = file.parent / entry.head_weights
    if entry.head_weights:
        weights = read_weights(path)
    head = make_head(entry.head, channels, backbone, _width_of(weights))
    if head.reads_latent and not backbone.gives_latent:
        raise ValueError(
            f"{file}: a '{entry.head}' head reads the clean latent, but the UNet at "
            f"'{entry.unet}' has no conv_out; use head: dpt, which it was trained with"
        )
    if not head.state_dict():
        return head
    if not entry.head_weights:
        raise ValueError(f"{file}: a '{entry.head}' head has weights; name them in head_weights")
    return load_into(head, weights, path).float()


def _width_of(weights: Mapping[str, Tensor]) -> int:
    """Return the channels inside a head, which its weights tell; 0 if they do not."""
    for name in ('project.0.weight', 'head.projection.weight'):
        if name in weights:
            return len(weights[name])
    return 0


def save(
    folder: Path, model: Model, config: CheckpointConfig, dtype: torch.dtype = torch.float16
) -> None:
    """
    Write a model as a checkpoint folder that `load` reads; checkpoint.yaml comes last.

    :param model: all of its backbones are UNets on one VAE.
    :param config: everything but the tasks, which are taken from the model.
    """
    names = {key: 'unet' if not i else f'unet_{i}' for i, key in enumerate(model.backbones)}
    for key, backbone in model.backbones.items():
        assert isinstance(backbone, UNetBackbone)
        save_model(folder / 'vae', backbone.vae, dtype)
        save_model(folder / names[key], backbone.unet, dtype)
        save_tensors(folder / PROMPT, {'prompt': backbone.prompt})
    tasks: dict[str, dict[str, Any]] = {}
    for name, task in model.tasks.items():
        head = model.heads[name]
        tasks[name] = {'unet': names[model.backbone_of[name]]}
        if isinstance(head, LightHead | DPTHead):
            kind = 'light' if isinstance(head, LightHead) else 'dpt'
            weights = f'head_{name}.safetensors'
            save_tensors(folder / weights, head.state_dict(), dtype)
            tasks[name] |= {'head': kind, 'head_weights': weights}
        if asdict(task):
            tasks[name]['options'] = asdict(task)
    values = asdict(config) | {'base': '', 'vae': 'vae', 'prompt': PROMPT, 'tasks': tasks}
    _write(folder / FILE, values)


def record_metrics(file: Path, metrics: Mapping[str, Any]) -> None:
    """Write how good a checkpoint is into its checkpoint.yaml; everything else stays."""
    values = yaml.safe_load(file.read_text()) | {'metrics': dict(metrics)}
    _write(file, values)


def _write(file: Path, values: Mapping[str, Any]) -> None:
    part = file.with_suffix('.part')
    part.write_text(yaml.safe_dump(dict(values), sort_keys=False, width=99))
    part.replace(file)


def _given(file: Path, part: str, path: str, base: Path | None) -> Path:
    """Return a part's own folder, else the base's."""
    if path:
        return file.parent / path
    if base is None:
        raise ValueError(f"{file}: option '{part}' is missing; name its folder, or a base")
    return base / part


def _prompt(file: Path, config: CheckpointConfig, base: Path | None) -> Tensor:
    if config.prompt:
        return read_embedding(file.parent / config.prompt)
    encoder = _given(file, 'text_encoder', '', base)
    return embed_empty_prompt(encoder, encoder.parent / 'tokenizer')
