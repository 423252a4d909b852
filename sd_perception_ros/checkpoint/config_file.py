"""checkpoint.yaml: options, finding, reading, writing. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
import difflib
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from sd_perception_ros.backbones.onestep import PREDICTION_TYPES
from sd_perception_ros.checkpoint.files import check_location, read_text
from sd_perception_ros.checkpoint.hub import hub_hint, is_on_hub, on_disk
from sd_perception_ros.checkpoint.layouts import JOINT_HEAD
from sd_perception_ros.config import build, check, option, rename_old
from sd_perception_ros.git_lfs import refuse_lfs_pointer
from sd_perception_ros.heads import HEADS
from sd_perception_ros.paths import user_path
from sd_perception_ros.safe_save import write_text
from sd_perception_ros.tasks import CROP_TASKS

FILE = 'checkpoint.yaml'
UNKNOWN = 'unknown'
SHIPPED = Path(__file__).parents[1] / 'assets' / 'checkpoints'
MOST_PX = 4096  # largest value of long_side_px
# Known checkpoints of related methods that one deterministic pass cannot run.
UNSUPPORTED = {
    'e2e_ft_geowizard': 'GeoWizard needs the CLIP embedding of each image and a domain switch',
    'lotus_g': 'the generative Lotus needs noise as input; use lotus_disparity or lotus_normals',
    'marigold_iid_appearance': 'its latent holds two images (albedo and material)',
    'marigold_iid_lighting': 'its latent holds three images (albedo, shading and residual)',
}
# Names of the previous release, old: new. They are read with a warning and never written.
OLD_KEYS = {'prediction': 'prediction_type', 'signal': 'alpha'}
OLD_PREDICTION_TYPES = {'velocity': 'v_prediction', 'flow': 'flow_prediction'}
OLD_TASKS = {'pose': 'human_pose'}


@dataclass(frozen=True)
class TaskEntry:
    """The weights of one task. Paths are relative to checkpoint.yaml."""

    unet: str = option(
        'unet',
        'Folder of the denoiser (UNet or transformer); tasks that name the same one share it',
    )
    head: str = option(
        'auto',
        'decoder: the VAE decoder; light: a few convolutions; dpt: DPT head; deconv: heat maps of '
        'the joints in a crop of one person (SDPose); auto: the head stored with the denoiser, '
        'otherwise decoder',
        choices=('auto', *HEADS),
    )
    head_weights: str = option(
        '', 'Folder or file with the weights of a light, dpt or deconv head'
    )
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        check(self)
        if self.head_weights and self.head == 'auto':
            raise ValueError(
                f"head_weights '{self.head_weights}' needs the kind of head; add head: "
                'light, head: dpt or head: deconv'
            )


@dataclass(frozen=True)
class CheckpointConfig:
    """
    The options of checkpoint.yaml.

    Locations are paths relative to that file, or hub:owner/name[@revision][/subfolder].

    :ivar tasks: by task name.
    :ivar sha256: expected hash of weight files, by the end of their path.
    :ivar provenance: origin of the weights; information only.
    :ivar metrics: results of `evaluate`; information only.
    """

    tasks: dict[str, TaskEntry] = field(default_factory=dict)
    base: str = option('', 'diffusers pipeline folder for everything not named here')
    vae: str = option(
        '',
        'Folder of the autoencoder, AutoencoderKL or AutoencoderTiny (taesd); empty: that of the '
        'base, otherwise the one beside the unet',
    )
    tiny_encoder: str = option(
        '', 'Folder of an AutoencoderTiny (taesd) that encodes instead of vae; empty: vae encodes'
    )
    tiny_decoder: str = option(
        '', 'Folder of an AutoencoderTiny (taesd) that decodes instead of vae; empty: vae decodes'
    )
    prompt: str = option(
        '',
        'File with the embedding of the empty prompt, or folder with text_encoder and tokenizer; '
        'empty: those of the base, otherwise the ones beside the unet',
    )
    prompt_tokens: int = option(
        0,
        'Tokens of the empty prompt: 2 without padding, 77 with padding (GenPercept 1). A longer '
        'stored prompt is cut; 0: a stored prompt as it is, or no padding',
        low=0,
        high=77,
    )
    timestep: int = option(
        -1,
        'Timestep of the denoiser; -1: from its scheduler or kind of weights',
        low=-1,
        high=1000,
    )
    prediction_type: str = option(
        'auto',
        'What the denoiser predicts, as in scheduler_config.json; auto: from its scheduler or '
        'kind of weights',
        choices=('auto', *PREDICTION_TYPES),
    )
    alpha: float = option(
        -1.0,
        'Amplitude of the clean latent at the timestep, 0 in GenPercept; -1: from its scheduler '
        'or kind of weights',
        low=-1,
        high=1,
    )
    final_alpha: float = option(
        -1.0,
        'Amplitude of the clean latent after the step, 1: the clean latent itself; -1: from its '
        'scheduler (set_alpha_to_one), or 1',
        low=-1,
        high=1,
    )
    resize: str = option(
        'pad',
        'How images are brought to a size of the network. exact: stretched, as in the official '
        'pipeline; pad: padded at the lower and right edge, and the output is cropped',
        choices=('exact', 'pad'),
    )
    long_side_px: int = option(
        768,
        'Longer image side that the network was trained for; 0: no resizing',
        low=0,
        high=MOST_PX,
    )
    license: str = option(
        UNKNOWN,
        'Licence of the weights; unknown: from their card, else their LICENSE file, else the '
        'terms of the known project',
    )
    license_source: str = option('', 'Where the authors state the licence')
    description: str = option('', 'What the checkpoint is good for, in one line')
    download_gb: float = option(0.0, 'Size of the download in GB, an estimate; 0: unknown', low=0)
    parameters_m: float = option(
        0.0, 'Approximate number of parameters for serving, in millions; 0: unknown', low=0
    )
    sha256: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        check(self)


class CheckpointFile(NamedTuple):
    """A checkpoint.yaml that was found and read."""

    path: Path
    config: CheckpointConfig


def open_checkpoint(name: str) -> CheckpointFile:
    """
    Find and read a checkpoint.yaml; arguments and errors are those of `resolve` and `read_config`.

    A folder in SDPose's layout needs no checkpoint.yaml.
    """
    folder = on_disk(name) if is_on_hub(name) else user_path(name)
    if name and not (folder / FILE).is_file() and (folder / JOINT_HEAD).is_file():
        tasks = dict.fromkeys(CROP_TASKS, TaskEntry(unet='.'))
        return CheckpointFile(folder / FILE, CheckpointConfig(tasks=tasks))
    path = resolve(name)
    return CheckpointFile(path, read_config(path))


def resolve(name: str) -> Path:
    """
    Find a checkpoint.yaml.

    :param name: a known name, a checkpoint folder (local or `hub:owner/name@commit`), or the file.
    :returns: path of the file, which exists.
    :raises FileNotFoundError: there is none.
    :raises ValueError: a malformed location on the hub.
    """
    if name in UNSUPPORTED:
        raise ValueError(f"checkpoint '{name}' is not supported: {UNSUPPORTED[name]}")
    shipped = SHIPPED / name / FILE
    path = on_disk(name) if is_on_hub(name) else user_path(name)
    for candidate in (shipped, path / FILE, path):
        if name and check_location(candidate).is_file():
            return candidate
    names = [folder.parent.name for folder in SHIPPED.glob(f'*/{FILE}')]
    similar = difflib.get_close_matches(name, names, n=1)
    is_folder = path.is_dir()
    hint = (
        f'; {path} has no {FILE}: write one that names its unet' if is_folder else hub_hint(name)
    )
    if similar:
        hint = f"; did you mean '{similar[0]}'?"
    raise FileNotFoundError(
        'expected a checkpoint: a known name (see python -m sd_perception_ros checkpoints), '
        f"a folder with {FILE}, or such a file; got '{name}'{hint}"
    )


def read_config(file: Path) -> CheckpointConfig:
    """
    Read and check a checkpoint.yaml.

    :raises ValueError: not YAML, or an option that is unknown, missing or impossible.
    """
    refuse_lfs_pointer(check_location(file))
    try:
        values = yaml.safe_load(read_text(file))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        reason = ' '.join(str(error).split())
        raise ValueError(
            f'{file} is not YAML ({reason}); name a {FILE}, or the folder that holds it'
        ) from None
    config = build(CheckpointConfig, _with_new_names(values, file), str(file))
    if not isinstance(config.tasks, Mapping) or not config.tasks:
        raise ValueError(f"{file}: expected 'tasks', such as {{depth: {{unet: unet_depth_v2}}}}")
    tasks: Mapping[str, Any] = config.tasks
    entries = {
        name: build(TaskEntry, entry or {}, f'{file}: tasks.{name}')
        for name, entry in tasks.items()
    }
    return replace(config, tasks=entries)


def _with_new_names(values: Any, file: Path) -> Any:
    """Replace names of the previous release in a checkpoint.yaml; log a warning for each."""
    if not isinstance(values, Mapping):
        return values
    values = rename_old(values, OLD_KEYS, str(file))
    if isinstance(values.get('tasks'), Mapping):
        values['tasks'] = rename_old(values['tasks'], OLD_TASKS, f'{file}: tasks')
    predicts = values.get('prediction_type')
    if isinstance(predicts, str) and predicts in OLD_PREDICTION_TYPES:
        renamed = rename_old({predicts: None}, OLD_PREDICTION_TYPES, f'{file}: prediction_type')
        [values['prediction_type']] = renamed
    return values


def tasks_of(name: str) -> list[str]:
    """Return the tasks of a checkpoint, in the order of its file; see `open_checkpoint`."""
    return list(open_checkpoint(name).config.tasks)


def record_metrics(file: Path, metrics: Mapping[str, Any]) -> None:
    """Replace the metrics of a checkpoint.yaml; everything else is kept."""
    values = yaml.safe_load(file.read_text()) | {'metrics': dict(metrics)}
    write_config(file, values)


def write_config(file: Path, values: Mapping[str, Any]) -> None:
    """Write a checkpoint.yaml, atomically."""
    write_text(file, yaml.safe_dump(dict(values), sort_keys=False, width=99))
