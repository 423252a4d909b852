"""The one deterministic step: from what a denoiser predicts to the clean latent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
import math
from typing import Any, TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

PREDICTIONS = ('velocity', 'epsilon', 'sample', 'flow')
FORMULAS = {'v_prediction': 'velocity', 'epsilon': 'epsilon', 'sample': 'sample'}  # of diffusers


@dataclass(frozen=True)
class OneStep:
    """
    Where on its noise schedule a denoiser runs, once, and what its output means there.

    A schedule mixes a clean latent x0 with noise n to x = a x0 + s n. Solved for x0:

    - velocity: v = a n - s x0 and a^2 + s^2 = 1 (arXiv 2202.00512), so x0 = a x - s v
    - epsilon: the output is n (arXiv 2006.11239), so x0 = (x - s n) / a
    - flow: v = n - x0 and a + s = 1 (rectified flow, arXiv 2209.03003; Stable Diffusion 3,
      arXiv 2403.03206), so x0 = x - s v
    - sample: the output is x0 (Lotus-D, arXiv 2409.18124)

    x is what the denoiser is shown as noisy: the picture's latent (GenPercept, and for flow
    DepthFM, arXiv 2403.13788), or zeros beside it (E2E-FT, arXiv 2409.11355). GenPercept sets
    every beta to 1: a = 0, and velocity means x0 = -v at any timestep.

    :param timestep: as the denoiser's timestep embedding reads it.
    :param prediction: one of `PREDICTIONS`.
    :param signal: a, the amplitude of the clean latent at this timestep, 0..1.
    :raises ValueError: epsilon with no signal, which tells nothing about x0.
    """

    timestep: float = 1
    prediction: str = 'velocity'
    signal: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what has no solution."""
        if self.prediction not in PREDICTIONS:
            raise ValueError(
                f"expected a prediction of {', '.join(PREDICTIONS)}, got '{self.prediction}'"
            )
        if not 0 <= self.signal <= 1:
            raise ValueError(f'expected a signal of 0..1, got {self.signal}')
        if self.prediction == 'epsilon' and self.signal < 1e-4:
            raise ValueError(
                f'an epsilon prediction with a signal of {self.signal} says nothing about the '
                'clean latent; give a timestep that keeps some, or another prediction'
            )

    @property
    def noise(self) -> float:
        """Return s, the amplitude of the noise."""
        if self.prediction == 'flow':
            return 1 - self.signal
        return math.sqrt(1 - self.signal**2)

    @property
    def keep(self) -> float:
        """Return the factor of x in x0."""
        return {
            'velocity': self.signal,
            'epsilon': 1 / max(self.signal, 1e-4),
            'sample': 0.0,
            'flow': 1.0,
        }[self.prediction]

    @property
    def gain(self) -> float:
        """Return the factor of the denoiser's output in x0."""
        return {
            'velocity': -self.noise,
            'epsilon': -self.noise / max(self.signal, 1e-4),
            'sample': 1.0,
            'flow': -self.noise,
        }[self.prediction]

    def clean(self, shown: Tensor | None, output: Tensor) -> Tensor:
        """
        Return the clean latent.

        :param shown: (B, c, h, w) x, or None for zeros.
        :param output: (B, c, h, w) what the denoiser gave.
        """
        clean = output * self.gain
        return clean if shown is None or not self.keep else clean + shown * self.keep


def of_scheduler(config: Mapping[str, Any], timestep: float | None = None) -> OneStep:
    """
    Return the one step that a scheduler of diffusers takes from its noisiest end.

    That end is the last timestep (trailing spacing, arXiv 2409.11355), but for GenPercept's own
    schedule, all betas 1, which is the same everywhere and is embedded as its first timestep.

    :param config: what scheduler_config.json says.
    :param timestep: another one.
    :raises ValueError: a scheduler that changes x0, or that we do not know.
    """
    name = str(config.get('_class_name', ''))
    count = int(config.get('num_train_timesteps', 1000))
    if name.startswith('FlowMatch'):
        from diffusers import FlowMatchEulerDiscreteScheduler  # slow

        flow = FlowMatchEulerDiscreteScheduler.from_config(dict(config))
        sigma = float(flow.sigmas[0]) if timestep is None else timestep / count
        return OneStep(sigma * count, 'flow', 1 - sigma)
    for option in ('clip_sample', 'thresholding'):
        if config.get(option):
            raise ValueError(
                f'expected a latent scheduler, which leaves the clean latent as it is, got {name} '
                f'with {option}: true; set it to false in scheduler_config.json if the model was '
                'trained without'
            )
    kind = str(config.get('prediction_type', 'epsilon'))
    if kind not in FORMULAS:
        raise ValueError(
            f"expected a prediction_type of {', '.join(FORMULAS)} in the scheduler, got '{kind}'; "
            'name the prediction in checkpoint.yaml'
        )
    powers = _signal_powers(config)
    if timestep is None:
        is_flat = float(powers[0]) == 0
        timestep = int(config.get('steps_offset', 1)) if is_flat else count - 1
    return OneStep(timestep, FORMULAS[kind], float(powers[round(timestep)]) ** 0.5)


def balanced(config: Mapping[str, Any]) -> OneStep:
    """Return an epsilon model's step where its schedule has as much signal as noise."""
    powers = _signal_powers(config)
    timestep = int((powers - 0.5).abs().argmin())
    return OneStep(timestep, 'epsilon', float(powers[timestep]) ** 0.5)


def _signal_powers(config: Mapping[str, Any]) -> Tensor:
    """Return a^2 of each timestep."""
    from diffusers import DDIMScheduler  # slow

    # Schedulers of this family share betas; DDIM's class knows all of their options.
    names = ('beta_start', 'beta_end', 'beta_schedule', 'trained_betas', 'rescale_betas_zero_snr')
    schedule = DDIMScheduler(
        num_train_timesteps=int(config.get('num_train_timesteps', 1000)),
        **{name: config[name] for name in names if config.get(name) is not None},
    )
    powers: Tensor = schedule.alphas_cumprod
    return powers
