"""The one step of a denoiser: from checkpoint.yaml, its scheduler, or its kind."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from sd_perception_ros.backbones.onestep import balanced, of_scheduler, OneStep, PREDICTION_TYPES
from sd_perception_ros.checkpoint.config_file import CheckpointConfig
from sd_perception_ros.checkpoint.denoisers import transformer_family_of
from sd_perception_ros.checkpoint.files import read_json

# Of stable-diffusion-2-1/scheduler/scheduler_config.json.
SD2_SCHEDULE = {
    'beta_start': 0.00085,
    'beta_end': 0.012,
    'beta_schedule': 'scaled_linear',
    'prediction_type': 'v_prediction',
}
LOTUS_TIMESTEP = 999


class StepOptions(NamedTuple):
    """
    The options of checkpoint.yaml that describe the step; None: not given.

    :ivar timestep: as the denoiser's embedding reads it.
    :ivar prediction_type: one of `onestep.PREDICTION_TYPES`.
    :ivar alpha: amplitude of the clean latent at the timestep, 0..1.
    """

    timestep: int | None = None
    prediction_type: str | None = None
    alpha: float | None = None


def step_options(config: CheckpointConfig) -> StepOptions:
    """Return the step of a checkpoint.yaml, without the options left at their defaults."""
    return StepOptions(
        config.timestep if config.timestep >= 0 else None,
        config.prediction_type if config.prediction_type in PREDICTION_TYPES else None,
        config.alpha if config.alpha >= 0 else None,
    )


def serving_step(
    denoiser: Any, latent_channels: int, pipeline: Path | None, options: StepOptions
) -> OneStep:
    """
    Return the step in which published weights are served.

    Options that are given win. The others come from the first of these that applies:

    - class embedding of the task (Lotus): timestep 999, the output is the clean latent
    - scheduler_config.json in the pipeline folder: that scheduler's noisiest step
    - two latents in (Marigold, E2E-FT): the noisiest step of Stable Diffusion 2's schedule
    - otherwise `finetuning_step`

    :param denoiser: a model of diffusers.
    :param latent_channels: of the autoencoder.
    :param pipeline: folder that has scheduler/scheduler_config.json, if any.
    :raises ValueError: the step has no solution for the clean latent.
    """
    timestep, config = options.timestep, denoiser.config
    scheduler = _scheduler_config(pipeline)
    if _has_task_switch(config):
        step = OneStep(LOTUS_TIMESTEP if timestep is None else timestep, 'sample')
    elif scheduler is not None:
        step = of_scheduler(scheduler, timestep)
    elif config['in_channels'] == 2 * latent_channels:
        step = of_scheduler(SD2_SCHEDULE, timestep)
    else:
        step = finetuning_step(denoiser, latent_channels, pipeline, timestep)
    return OneStep(
        step.timestep if timestep is None else timestep,
        options.prediction_type or step.prediction_type,
        step.alpha if options.alpha is None else options.alpha,
    )


def finetuning_step(
    denoiser: Any, latent_channels: int, pipeline: Path | None, timestep: int | None = None
) -> OneStep:
    """
    Return the step in which a pre-trained denoiser is best fine-tuned.

    - v_prediction: that of GenPercept, x0 = -v at timestep 1
    - flow_prediction: from the image latent at the noisy end straight to x0
    - epsilon: where alpha and sigma are equal, so that the output has the factor that it has with
      v_prediction; at the noisy end the factor would be 14 (Stable Diffusion) or 157 (DiT)
    - two latents in, or a class embedding of the task (Lotus): as `serving_step`

    Arguments and errors are those of `serving_step`.
    """
    config = denoiser.config
    if _has_task_switch(config) or config['in_channels'] == 2 * latent_channels:
        return serving_step(denoiser, latent_channels, pipeline, StepOptions(timestep))
    family = transformer_family_of(denoiser)
    schedule = _scheduler_config(pipeline) or (family.schedule if family else None)
    predicts = of_scheduler(schedule).prediction_type if schedule is not None else 'v_prediction'
    if schedule is None or predicts == 'v_prediction':
        return OneStep(1 if timestep is None else timestep)
    if predicts == 'epsilon' and timestep is None:
        return balanced(schedule)
    return of_scheduler(schedule, timestep)


def _has_task_switch(config: Mapping[str, Any]) -> bool:
    return config.get('class_embed_type') == 'projection'


def scheduler_prediction(pipeline: Path | None) -> str | None:
    """Return prediction_type of the scheduler in a pipeline folder; None: it has none."""
    scheduler = _scheduler_config(pipeline)
    return None if scheduler is None else str(scheduler.get('prediction_type', 'epsilon'))


def _scheduler_config(pipeline: Path | None) -> dict[str, Any] | None:
    file = pipeline / 'scheduler' / 'scheduler_config.json' if pipeline else None
    return read_json(file) if file is not None and file.is_file() else None
