"""The one step of a denoiser: from checkpoint.yaml, its scheduler, or its kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
import logging
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from sd_perception_ros.backbones.onestep import (
    balanced,
    of_scheduler,
    OneStep,
    PREDICTION_TYPES,
    spacing_note,
)
from sd_perception_ros.checkpoint.config_file import CheckpointConfig
from sd_perception_ros.checkpoint.denoisers import transformer_family_of
from sd_perception_ros.checkpoint.files import read_json

# Of stable-diffusion-2-1/scheduler/scheduler_config.json.
SD2_SCHEDULE = {
    'beta_start': 0.00085,
    'beta_end': 0.012,
    'beta_schedule': 'scaled_linear',
    'prediction_type': 'v_prediction',
    'clip_sample': False,
}
LOTUS_TIMESTEP = 999
LOG = logging.getLogger(__name__)
T = TypeVar('T')


class StepOptions(NamedTuple):
    """
    The options of checkpoint.yaml that describe the step; None: not given.

    :ivar timestep: as the denoiser's embedding reads it.
    :ivar prediction_type: one of `onestep.PREDICTION_TYPES`.
    :ivar alpha: amplitude of the clean latent at the timestep, 0..1.
    :ivar final_alpha: amplitude of the clean latent after the step, 0..1.
    """

    timestep: int | None = None
    prediction_type: str | None = None
    alpha: float | None = None
    final_alpha: float | None = None


def step_options(config: CheckpointConfig) -> StepOptions:
    """Return the step of a checkpoint.yaml, without the options left at their defaults."""
    return StepOptions(
        config.timestep if config.timestep >= 0 else None,
        config.prediction_type if config.prediction_type in PREDICTION_TYPES else None,
        config.alpha if config.alpha >= 0 else None,
        config.final_alpha if config.final_alpha >= 0 else None,
    )


def serving_step(
    denoiser: Any, latent_channels: int, pipeline: Path | None, options: StepOptions
) -> OneStep:
    """
    Return the step for serving published weights.

    Given options come first. With timestep, prediction_type and alpha the scheduler is not read;
    with alpha and no final_alpha the step ends at the clean latent. The others come from the first
    of these that applies:

    - class embedding of the task (Lotus): timestep 999, the output is the clean latent
    - scheduler_config.json in the pipeline folder: that scheduler's noisiest step
    - two latents in (Marigold, E2E-FT): the noisiest step of Stable Diffusion 2's schedule
    - otherwise `finetuning_step`

    :param denoiser: a model of diffusers.
    :param latent_channels: of the autoencoder.
    :param pipeline: folder that has scheduler/scheduler_config.json, if any.
    :raises ValueError: the step has no solution for the clean latent.
    """
    timestep, prediction_type, alpha, final_alpha = options
    config, file = denoiser.config, _scheduler_file(pipeline)
    if timestep is not None and prediction_type is not None and alpha is not None:
        step = OneStep(timestep, prediction_type, alpha)
    elif _has_task_switch(config):
        step = OneStep(LOTUS_TIMESTEP, 'sample')
    elif file is not None:
        step = _from_file(of_scheduler, file, timestep)
        if timestep is None and (note := _from_file(spacing_note, file)):
            LOG.warning('%s: %s', file, note)
    elif config['in_channels'] == 2 * latent_channels:
        step = of_scheduler(SD2_SCHEDULE, timestep)
    else:
        step = finetuning_step(denoiser, latent_channels, pipeline, timestep)
    return OneStep(
        step.timestep if timestep is None else timestep,
        prediction_type or step.prediction_type,
        step.alpha if alpha is None else alpha,
        final_alpha or (step.final_alpha if alpha is None else 1.0),
    )


def finetuning_step(
    denoiser: Any, latent_channels: int, pipeline: Path | None, timestep: int | None = None
) -> OneStep:
    """
    Return the best step for fine-tuning a pre-trained denoiser.

    - v_prediction: that of GenPercept, x0 = -v at timestep 1
    - flow_prediction: from the image latent at the noisy end straight to x0
    - epsilon: where alpha and sigma are equal, so that the factor of the output is that of
      v_prediction; at the noisy end the factor would be 14 (Stable Diffusion) or 157 (DiT)
    - two latents in, or a class embedding of the task (Lotus): as `serving_step`

    Arguments and errors are those of `serving_step`.
    """
    config = denoiser.config
    if _has_task_switch(config) or config['in_channels'] == 2 * latent_channels:
        step = serving_step(denoiser, latent_channels, pipeline, StepOptions(timestep))
        return replace(step, final_alpha=1.0)  # the truth is a clean latent
    family, file = transformer_family_of(denoiser), _scheduler_file(pipeline)
    schedule: Mapping[str, Any]
    if file is not None:
        schedule, noisiest = read_json(file), _from_file(of_scheduler, file)
    elif family is not None:
        schedule, noisiest = family.schedule, of_scheduler(family.schedule)
    else:
        return OneStep(1 if timestep is None else timestep)
    if noisiest.prediction_type == 'v_prediction':
        return OneStep(1 if timestep is None else timestep)
    if noisiest.prediction_type == 'epsilon' and timestep is None:
        return balanced(schedule)
    return replace(of_scheduler(schedule, timestep), final_alpha=1.0)


def _has_task_switch(config: Mapping[str, Any]) -> bool:
    return config.get('class_embed_type') == 'projection'


def scheduler_prediction(pipeline: Path | None) -> str | None:
    """Return prediction_type of the scheduler in a pipeline folder; None: it has none."""
    file = _scheduler_file(pipeline)
    return None if file is None else str(read_json(file).get('prediction_type', 'epsilon'))


def _scheduler_file(pipeline: Path | None) -> Path | None:
    file = pipeline / 'scheduler' / 'scheduler_config.json' if pipeline else None
    return file if file is not None and file.is_file() else None


def _from_file(function: Callable[..., T], file: Path, *arguments: Any) -> T:
    """Call a function of a scheduler's config; its errors name the file."""
    config = read_json(file)
    try:
        return function(config, *arguments)
    except ValueError as error:
        raise ValueError(f'{file}: {error}') from None
