"""A checkpoint: a folder with checkpoint.yaml and safetensors, ours or any official layout."""

from __future__ import annotations

from collections.abc import Collection, Mapping
import contextlib
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import yaml

from sd_perception_ros.backbones.backbone import Backbone
from sd_perception_ros.backbones.latent import LatentBackbone
from sd_perception_ros.backbones.onestep import PREDICTIONS
from sd_perception_ros.backbones.unet import UNetBackbone
from sd_perception_ros.checkpoint.assembly import (
    log_files,
    PROMPT,
    Sources,
    step_options,
    step_values,
)
from sd_perception_ros.checkpoint.heads import HEADS, load_head, make_head
from sd_perception_ros.checkpoint.hub import is_on_hub, on_disk
from sd_perception_ros.checkpoint.layouts import Layout
from sd_perception_ros.checkpoint.weight_files import Reader
from sd_perception_ros.checkpoint.weights import save_model, save_tensors
from sd_perception_ros.config import build, check, option
from sd_perception_ros.heads.dpt import DPTHead
from sd_perception_ros.heads.head import Head
from sd_perception_ros.heads.light import LightHead
from sd_perception_ros.model import Model
from sd_perception_ros.tasks import make_task
from sd_perception_ros.tasks.task import Task

FILE = 'checkpoint.yaml'
UNKNOWN = 'unknown'
SHIPPED = Path(__file__).parents[1] / 'assets' / 'checkpoints'
MOST_PX = 4096  # the longest side that a network is asked to see


@dataclass(frozen=True)
class TaskEntry:
    """Where one task's weights are. Paths are relative to checkpoint.yaml."""

    unet: str = option(
        'unet',
        'Folder of the denoiser, UNet or transformer; tasks that name the same one share it',
    )
    head: str = option(
        'auto',
        'Readout: the VAE decoder, light convolutions, or DPT; auto: DPT if the denoiser came '
        'with one, else the decoder',
        choices=('auto', *HEADS),
    )
    head_weights: str = option('', 'Folder or file of the head, where it has weights')
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        check(self)
        if self.head_weights and self.head == 'auto':
            raise ValueError(
                f"head_weights '{self.head_weights}' need the kind of their head; add head: light "
                'or head: dpt'
            )


@dataclass(frozen=True)
class CheckpointConfig:
    """
    What checkpoint.yaml says.

    Places are paths, relative to that file, or on the hub: hub:owner/name@commit/subfolder.
    `sha256` says what weight files must hash to, by the ends of their paths.
    """

    tasks: dict[str, Any] = field(default_factory=dict)
    base: str = option('', 'diffusers pipeline folder that gives whatever is not named here')
    vae: str = option('', "Folder of the autoencoder; empty: the base's, else the denoiser's own")
    prompt: str = option(
        '', "Embedding of the empty prompt; empty: the base's, else the denoiser's own"
    )
    timestep: int = option(
        -1, 'Frozen timestep of the denoiser; -1: as its layout has it', low=-1, high=1000
    )
    prediction: str = option(
        'auto',
        'What the denoiser predicts; auto: as its layout has it',
        choices=('auto', *PREDICTIONS),
    )
    signal: float = option(
        -1.0,
        'Amplitude of the clean latent at the timestep; 0: GenPercept; -1: as the layout has it',
        low=-1,
        high=1,
    )
    resize: str = option(
        'pad',
        'exact: as the official pipeline, which stretches; pad: to the stride, and crop back',
        choices=('exact', 'pad'),
    )
    long_side_px: int = option(
        768, "Longer side the network was trained for; 0: the picture's own", low=0, high=MOST_PX
    )
    license: str = option(
        UNKNOWN, "Licence of the weights, logged when they are loaded; unknown: the model card's"
    )
    sha256: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        check(self)


def find(name: str) -> Path:
    """
    Return the checkpoint.yaml of a known name, a checkpoint folder, here or on the hub, or a file.

    :raises FileNotFoundError: there is none.
    :raises ValueError: a place on the hub that is none.
    """
    shipped = SHIPPED / name / FILE
    path = on_disk(name) if is_on_hub(name) else Path(name)
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


def load(
    name: str, tasks: Collection[str] = (), device: str = 'cpu'
) -> tuple[Model, CheckpointConfig]:
    """
    Load a model, in float32 on the CPU, ready to serve.

    :param name: a known name, a folder or a file, as `find` takes it.
    :param tasks: the tasks to load; empty: all of the checkpoint.
    :param device: 'meta' reads no numbers: it proves that all names and shapes fit, in seconds.
    :raises FileNotFoundError: a file is missing.
    :raises ValueError: a file is broken, does not fit, or lacks a task.
    """
    model, config, _ = _read_model(name, tasks, device, None)
    return model, config


def outline(name: str, tasks: Collection[str] = ()) -> tuple[Model, CheckpointConfig]:
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


def start(
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
    return find(str(base)).parent if is_checkpoint(base) else base


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
    _write(folder / FILE, values)


def record_metrics(file: Path, metrics: Mapping[str, Any]) -> None:
    """Write how good a checkpoint is into its checkpoint.yaml; everything else stays."""
    values = yaml.safe_load(file.read_text()) | {'metrics': dict(metrics)}
    _write(file, values)


def _write(file: Path, values: Mapping[str, Any]) -> None:
    part = file.with_suffix('.part')
    part.write_text(yaml.safe_dump(dict(values), sort_keys=False, width=99))
    part.replace(file)
