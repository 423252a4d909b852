"""The state of a training run on disk, from which a stopped run is resumed exactly."""

from __future__ import annotations

import json
from pathlib import Path
import shutil
import tempfile
from typing import Any

from accelerate import Accelerator
from safetensors import SafetensorError
import torch

from sd_perception_ros.safe_save import complete_folder, remove_folder, replace_folder

# Options that may differ when a stopped run is resumed. Other `steps` move the end of the learning
# rate schedule; a lower `learning_rate` helps a run that diverged.
RESUMABLE = {
    'steps',
    'learning_rate',
    'save_every',
    'gradient_accumulation_steps',
    'cuda_graphs',
}
STATE = 'state'
PART = 'state.part'
RUN = 'run.json'


def check_writable(folder: Path) -> None:
    """
    Create a folder, and check that files can be written.

    :raises OSError: it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(
            f'expected a folder that can be written, got {folder} ({error.strerror}); choose '
            'another one'
        ) from error


def save_state(accelerator: Accelerator, folder: Path, done: int, run: dict[str, Any]) -> None:
    """
    Replace the saved state by the current one; called by all processes.

    :param done: number of finished steps.
    :param run: options and data of the run, which must be equal when it is resumed.
    :raises OSError: it cannot be written; the previous state is kept.
    """
    part = folder / PART
    try:
        if accelerator.is_main_process:
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
        accelerator.wait_for_everyone()
        accelerator.save_state(str(part))
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            (part / RUN).write_text(json.dumps({'done': done, 'run': run}))
            replace_folder(part, folder / STATE)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise OSError(
            f'cannot write the state after step {done} to {folder} ({error}); the state before it '
            'is complete: free disk space or make the folder writable, then run the same command '
            'again'
        ) from error


def restore_state(accelerator: Accelerator, folder: Path, run: dict[str, Any]) -> int:
    """
    Load the saved state, if there is one.

    :returns: number of finished steps, 0 without a state.
    :raises ValueError: the state is of another run, does not fit the model, or is damaged.
    """
    state = complete_folder(folder / STATE)
    if not (state / RUN).is_file():
        return 0
    saved = json.loads((state / RUN).read_text())
    for name in run.keys() - RESUMABLE:
        if saved['run'].get(name) != run[name]:
            raise ValueError(
                f'{state} is of another run, with {name} {saved["run"].get(name)} instead of '
                f'{run[name]}; choose another folder, or delete it'
            )
    try:
        accelerator.load_state(str(state))
    except (RuntimeError, KeyError, EOFError, SafetensorError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise ValueError(
            f'{state} does not fit this model, or is damaged ({error}); choose another folder, or '
            'delete it'
        ) from error
    accelerator.step = 0  # it counts accumulation steps, whose number may have changed
    return int(saved['done'])


def steps_done(folder: Path) -> int:
    """Return the steps of the saved state, 0 without one."""
    file = complete_folder(folder / STATE) / RUN
    return int(json.loads(file.read_text())['done']) if file.is_file() else 0


def discard_state(folder: Path) -> None:
    """Delete the state of a finished run."""
    for name in (STATE, PART):
        remove_folder(folder / name)
