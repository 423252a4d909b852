"""checkpoint.yaml: its options, where it lies, reading and writing it."""

from __future__ import annotations

from collections.abc import Mapping
import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from sd_perception_ros.backbones.onestep import PREDICTIONS
from sd_perception_ros.checkpoint.hub import is_on_hub, on_disk
from sd_perception_ros.config import build, check, option, rename_old
from sd_perception_ros.heads import HEADS
from sd_perception_ros.tasks import OLD_NAMES

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


def resolve(name: str) -> Path:
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


def read_config(file: Path) -> tuple[CheckpointConfig, dict[str, TaskEntry]]:
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
    if isinstance(values, dict) and isinstance(values.get('tasks'), dict):
        values['tasks'] = rename_old(values['tasks'], OLD_NAMES, f'{file}: tasks')
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
    return list(read_config(resolve(name))[1])


def record_metrics(file: Path, metrics: Mapping[str, Any]) -> None:
    """Write how good a checkpoint is into its checkpoint.yaml; everything else stays."""
    values = yaml.safe_load(file.read_text()) | {'metrics': dict(metrics)}
    write_config(file, values)


def write_config(file: Path, values: Mapping[str, Any]) -> None:
    part = file.with_suffix('.part')
    part.write_text(yaml.safe_dump(dict(values), sort_keys=False, width=99))
    part.replace(file)
