"""The one deterministic step: from what a denoiser predicts to the clean latent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
import math
from typing import Any, TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

# As diffusers has them in scheduler_config.json (prediction_type).
PREDICTION_TYPES = ('v_prediction', 'epsilon', 'sample', 'flow_prediction')
MIN_ALPHA = 1e-4  # of an epsilon prediction, whose formula divides by alpha


@dataclass(frozen=True)
class OneStep:
    """
    The one step of a denoiser: its timestep, and what its output means there.

    A noise schedule mixes a clean latent x0 with noise n to x = a x0 + s n, where a is `alpha` and
    s is `sigma`. Solved for x0:

    - v_prediction: v = a n - s x0 and a^2 + s^2 = 1 (arXiv 2202.00512), so x0 = a x - s v
    - epsilon: the output is n (arXiv 2006.11239), so x0 = (x - s n) / a
    - flow_prediction: v = n - x0 and a + s = 1 (rectified flow, arXiv 2209.03003; Stable Diffusion
      3, arXiv 2403.03206), so x0 = x - s v
    - sample: the output is x0 (Lotus-D, arXiv 2409.18124)

    x is the noisy latent that the denoiser reads: the image latent (GenPercept; for flow
    DepthFM, arXiv 2403.13788), or zeros beside the image latent (E2E-FT, arXiv 2409.11355).
    GenPercept sets every beta to 1: a = 0, so that x0 = -v at any timestep.

    :param timestep: as the denoiser's timestep embedding reads it.
    :param prediction_type: one of `PREDICTION_TYPES`.
    :param alpha: amplitude of the clean latent at this timestep, 0..1: the square root of the
        alphas_cumprod of diffusers; 1 - sigma for flow_prediction.
    :raises ValueError: an impossible value, or epsilon with alpha near 0, which has no solution.
    """

    timestep: float = 1
    prediction_type: str = 'v_prediction'
    alpha: float = 0.0

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        if self.prediction_type not in PREDICTION_TYPES:
            raise ValueError(
                f'expected a prediction_type of {", ".join(PREDICTION_TYPES)}, got '
                f"'{self.prediction_type}'"
            )
        if not 0 <= self.alpha <= 1:
            raise ValueError(f'expected an alpha of 0..1, got {self.alpha}')
        if self.prediction_type == 'epsilon' and self.alpha < MIN_ALPHA:
            raise ValueError(
                f'with alpha {self.alpha} an epsilon prediction does not determine the clean '
                'latent; give a timestep of larger alpha, or another prediction_type'
            )

    @property
    def sigma(self) -> float:
        """Return the amplitude of the noise, s."""
        if self.prediction_type == 'flow_prediction':
            return 1 - self.alpha
        return math.sqrt(1 - self.alpha**2)

    @property
    def latent_coefficient(self) -> float:
        """Return the factor of the noisy latent x in x0."""
        return {
            'v_prediction': self.alpha,
            'epsilon': 1 / max(self.alpha, MIN_ALPHA),
            'sample': 0.0,
            'flow_prediction': 1.0,
        }[self.prediction_type]

    @property
    def output_coefficient(self) -> float:
        """Return the factor of the denoiser's output in x0."""
        return {
            'v_prediction': -self.sigma,
            'epsilon': -self.sigma / max(self.alpha, MIN_ALPHA),
            'sample': 1.0,
            'flow_prediction': -self.sigma,
        }[self.prediction_type]

    def clean(self, noisy: Tensor | None, output: Tensor) -> Tensor:
        """
        Return the clean latent x0, (B, c, h, w).

        :param noisy: (B, c, h, w) x; None: zeros.
        :param output: (B, c, h, w) of the denoiser.
        """
        clean = output * self.output_coefficient
        if noisy is None or not self.latent_coefficient:
            return clean
        return clean + noisy * self.latent_coefficient


def of_scheduler(config: Mapping[str, Any], timestep: float | None = None) -> OneStep:
    """
    Return the one step that a scheduler of diffusers takes from its noisiest end.

    That end is the last timestep (trailing spacing, arXiv 2409.11355). GenPercept's own schedule,
    all betas 1, is the same at every timestep and runs at the first one (`steps_offset`).

    :param config: scheduler_config.json.
    :param timestep: another timestep than the noisiest.
    :raises ValueError: the scheduler changes x0, or has an unknown prediction_type.
    """
    name = str(config.get('_class_name', ''))
    count = int(config.get('num_train_timesteps', 1000))
    if name.startswith('FlowMatch'):
        from diffusers import FlowMatchEulerDiscreteScheduler  # slow

        flow = FlowMatchEulerDiscreteScheduler.from_config(dict(config))
        sigma = float(flow.sigmas[0]) if timestep is None else timestep / count
        return OneStep(sigma * count, 'flow_prediction', 1 - sigma)
    for option in ('clip_sample', 'thresholding'):
        if config.get(option):
            raise ValueError(
                f'expected a latent scheduler, which leaves the clean latent as it is, got {name} '
                f'with {option}: true; set it to false in scheduler_config.json if the model was '
                'trained without'
            )
    prediction_type, known = str(config.get('prediction_type', 'epsilon')), PREDICTION_TYPES[:3]
    if prediction_type not in known:
        raise ValueError(
            f'expected a prediction_type of {", ".join(known)} in scheduler_config.json, got '
            f"'{prediction_type}'; set prediction_type in checkpoint.yaml"
        )
    squared_alphas = _squared_alphas(config)
    if timestep is None:
        is_constant = float(squared_alphas[0]) == 0
        timestep = int(config.get('steps_offset', 1)) if is_constant else count - 1
    return OneStep(timestep, prediction_type, float(squared_alphas[round(timestep)]) ** 0.5)


def balanced(config: Mapping[str, Any]) -> OneStep:
    """Return an epsilon model's step where alpha and sigma of its schedule are equal."""
    squared_alphas = _squared_alphas(config)
    timestep = int((squared_alphas - 0.5).abs().argmin())
    return OneStep(timestep, 'epsilon', float(squared_alphas[timestep]) ** 0.5)


def _squared_alphas(config: Mapping[str, Any]) -> Tensor:
    """Return a^2 of each timestep, (T,): the alphas_cumprod of diffusers."""
    from diffusers import DDIMScheduler  # slow

    # Schedulers of this family share betas; DDIM's class knows all of their options.
    names = ('beta_start', 'beta_end', 'beta_schedule', 'trained_betas', 'rescale_betas_zero_snr')
    schedule = DDIMScheduler(
        num_train_timesteps=int(config.get('num_train_timesteps', 1000)),
        **{name: config[name] for name in names if config.get(name) is not None},
    )
    squared_alphas: Tensor = schedule.alphas_cumprod
    return squared_alphas
