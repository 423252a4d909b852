"""The one deterministic step: from the output of a denoiser to the clean latent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
import inspect
import math
from typing import Any, TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

# Values of prediction_type in scheduler_config.json of diffusers.
PREDICTION_TYPES = ('v_prediction', 'epsilon', 'sample', 'flow_prediction')
MIN_ALPHA = 1e-4  # for an epsilon prediction: its formula divides by alpha
# Schedulers of diffusers whose only step ends at scheduler.final_alpha_cumprod.
_DDIM = ('DDIMScheduler', 'DDIMParallelScheduler', 'PNDMScheduler')
# Schedulers of diffusers whose only step ends at the clean latent.
_TO_CLEAN = (
    'DDPMScheduler',
    'DDPMParallelScheduler',
    'DPMSolverMultistepScheduler',
    'DPMSolverSinglestepScheduler',
    'EulerAncestralDiscreteScheduler',
    'EulerDiscreteScheduler',
    'HeunDiscreteScheduler',
    'KDPM2AncestralDiscreteScheduler',
    'KDPM2DiscreteScheduler',
    'LCMScheduler',
    'LMSDiscreteScheduler',
    'UniPCMultistepScheduler',
)
_FLOW = 'FlowMatchEulerDiscreteScheduler'
# Options of schedulers, and the value with which the step is the one of this file.
_NEEDED: Mapping[str, Any] = {
    'clip_sample': False,
    'thresholding': False,
    'final_sigmas_type': 'zero',
    'timestep_type': 'discrete',
    'sigma_min': None,
    'sigma_max': None,
    'use_flow_sigmas': False,
    'predict_x0': True,
    'lambda_min_clipped': -math.inf,
    'invert_sigmas': False,
    'stochastic_sampling': False,
    'shift_terminal': None,
}
_MIN_LCM_TIMESTEP = 50  # below, the boundary condition of LCM moves its output by more than 1e-6


@dataclass(frozen=True)
class OneStep:
    """
    The one step of a denoiser: its timestep, and the meaning of its output there.

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

    A step that does not end at the clean latent ends at a' x0 + s' n, where a' is `final_alpha`
    (DDIM, arXiv 2010.02502, with set_alpha_to_one: false). n follows from x and x0.

    :param timestep: as the denoiser's timestep embedding reads it.
    :param prediction_type: one of `PREDICTION_TYPES`.
    :param alpha: amplitude of the clean latent at this timestep, 0..1: the square root of the
        alphas_cumprod of diffusers; 1 - sigma for flow_prediction.
    :param final_alpha: amplitude of the clean latent after the step; 1: the clean latent itself.
    :raises ValueError: an impossible value, or epsilon with alpha near 0, which has no solution.
    """

    timestep: float = 1
    prediction_type: str = 'v_prediction'
    alpha: float = 0.0
    final_alpha: float = 1.0

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
        if not 0 < self.final_alpha <= 1:
            raise ValueError(f'expected a final_alpha above 0 and up to 1, got {self.final_alpha}')
        if self.final_alpha < 1 and (self.prediction_type == 'flow_prediction' or not self.sigma):
            raise ValueError(
                f'a step of {self.prediction_type} with alpha {self.alpha} ends at the clean '
                f'latent, got final_alpha {self.final_alpha}'
            )

    @property
    def sigma(self) -> float:
        """Return the amplitude of the noise, s."""
        if self.prediction_type == 'flow_prediction':
            return 1 - self.alpha
        return math.sqrt(1 - self.alpha**2)

    @property
    def latent_coefficient(self) -> float:
        """Return the factor of the noisy latent x in the result."""
        return self._mixed(*self._of_latent)

    @property
    def output_coefficient(self) -> float:
        """Return the factor of the denoiser's output in the result."""
        return self._mixed(*self._of_output)

    @property
    def _of_latent(self) -> tuple[float, float]:
        """Return the factors of x in x0 and in the noise n."""
        a, s = self.alpha, self.sigma
        return {
            'v_prediction': (a, s),
            'epsilon': (1 / max(a, MIN_ALPHA), 0.0),
            'sample': (0.0, 1 / max(s, MIN_ALPHA)),
            'flow_prediction': (1.0, 1.0),
        }[self.prediction_type]

    @property
    def _of_output(self) -> tuple[float, float]:
        """Return the factors of the output in x0 and in the noise n."""
        a, s = self.alpha, self.sigma
        return {
            'v_prediction': (-s, a),
            'epsilon': (-s / max(a, MIN_ALPHA), 1.0),
            'sample': (1.0, -a / max(s, MIN_ALPHA)),
            'flow_prediction': (-s, a),
        }[self.prediction_type]

    def _mixed(self, clean: float, noise: float) -> float:
        """Return a' x0 + s' n of the factors in x0 and n."""
        return self.final_alpha * clean + math.sqrt(1 - self.final_alpha**2) * noise

    def clean(self, noisy: Tensor | None, output: Tensor) -> Tensor:
        """
        Return the latent after the step, (B, c, h, w): x0, if `final_alpha` is 1.

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

    It is the last timestep (trailing spacing, arXiv 2409.11355), for any timestep_spacing of the
    scheduler. The schedule of GenPercept, all betas 1, is the same at every timestep; its step is
    the first one (`steps_offset`).

    :param config: scheduler_config.json; without a _class_name that of a DDIMScheduler.
    :param timestep: another timestep than the noisiest.
    :raises ValueError: a scheduler or option with another step, or refused by diffusers.
    """
    name = str(config.get('_class_name', _DDIM[0]))
    scheduler = _scheduler(name, config)
    for option, value in _NEEDED.items():
        if scheduler.config.get(option, value) != value:
            raise ValueError(
                f'expected a scheduler whose step ends at the clean latent as it is, got {name} '
                f'with {option}: {_yaml(scheduler.config[option])}; set it to {_yaml(value)} in '
                'scheduler_config.json if the model was trained so'
            )
    count = int(scheduler.config['num_train_timesteps'])
    if name == _FLOW:
        sigma = float(scheduler.sigmas[0]) if timestep is None else timestep / count
        return OneStep(sigma * count, 'flow_prediction', 1 - sigma)
    prediction_type, known = str(scheduler.config['prediction_type']), PREDICTION_TYPES[:3]
    if prediction_type not in known:
        raise ValueError(
            f'expected a prediction_type of {", ".join(known)} in scheduler_config.json, got '
            f"'{prediction_type}'; set prediction_type in checkpoint.yaml"
        )
    squared_alphas = scheduler.alphas_cumprod
    is_constant = float(squared_alphas[0]) == 0
    if timestep is None:
        timestep = int(config.get('steps_offset', 1)) if is_constant else count - 1
    if not 0 <= timestep < count:
        raise ValueError(f'expected a timestep of 0..{count - 1} for {name}, got {timestep}')
    if name == 'LCMScheduler' and timestep < _MIN_LCM_TIMESTEP:
        raise ValueError(
            f'expected a timestep of at least {_MIN_LCM_TIMESTEP} for {name}, whose output below '
            f'is no longer the clean latent, got {timestep}'
        )
    final = 1.0 if is_constant or name not in _DDIM else float(scheduler.final_alpha_cumprod)
    alpha = float(squared_alphas[round(timestep)]) ** 0.5
    return OneStep(timestep, prediction_type, alpha, final**0.5)


def spacing_note(config: Mapping[str, Any]) -> str:
    """
    Return in which way a scheduler's own single step differs from `of_scheduler`; empty: it is it.

    With another timestep_spacing than trailing, the single step of diffusers begins at the clean
    end, where a denoiser that was trained for one step was never used (arXiv 2409.11355).
    """
    name = str(config.get('_class_name', _DDIM[0]))
    if name == _FLOW:
        return ''
    scheduler = _scheduler(name, config)
    spacing = scheduler.config.get('timestep_spacing', 'trailing')
    if spacing == 'trailing' or name == 'LCMScheduler' or float(scheduler.alphas_cumprod[0]) == 0:
        return ''
    last = int(scheduler.config['num_train_timesteps']) - 1
    return (
        f'timestep_spacing {spacing} starts a single step at the clean end; timestep {last} is '
        f'used, as with trailing. Write timestep: {last}, or another one, into checkpoint.yaml'
    )


def balanced(config: Mapping[str, Any]) -> OneStep:
    """Return an epsilon model's step where alpha and sigma of its schedule are equal."""
    squared_alphas = _scheduler(str(config.get('_class_name', _DDIM[0])), config).alphas_cumprod
    timestep = int((squared_alphas - 0.5).abs().argmin())
    return OneStep(timestep, 'epsilon', float(squared_alphas[timestep]) ** 0.5)


def _scheduler(name: str, config: Mapping[str, Any]) -> Any:
    """Build a scheduler of diffusers; refuse those that have no such step."""
    if name not in (*_DDIM, *_TO_CLEAN, _FLOW):
        raise ValueError(
            f"the scheduler '{name}' has no single step from the output of a denoiser to the "
            f'clean latent; expected {", ".join((*_DDIM[:1], *_TO_CLEAN[:1], _FLOW))} or a '
            'similar one. Choose other weights; or, if they were trained for one step, write '
            'timestep, prediction_type and alpha into checkpoint.yaml'
        )
    import diffusers  # slow to import

    cls = getattr(diffusers, name)
    options = inspect.signature(cls.__init__).parameters
    try:
        return cls(**{option: value for option, value in config.items() if option in options})
    except (ArithmeticError, ImportError, RuntimeError, TypeError, ValueError) as error:
        reason = ' '.join(str(error).split())
        raise ValueError(
            f'diffusers cannot build {name} from scheduler_config.json ({reason}); correct it or '
            'copy it again'
        ) from None


def _yaml(value: Any) -> str:
    return {None: 'null', True: 'true', False: 'false'}.get(value, str(value))
