"""The training loop that all stages share: learning rate, gradient step, resumable state."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
import json
import math
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file, save_file
import torch
from torch import nn, Tensor

from sd_perception_ros.config import check, option

Run = dict[str, Any]
FREE = {'steps', 'save_every'}  # may change when a run goes on


@dataclass(frozen=True)
class OptimizeConfig:
    """How long and how fast weights are fitted."""

    steps: int = option(30000, 'Gradient steps', low=1)
    batch: int = option(32, 'Pictures in a step', low=1)
    learning_rate: float = option(3e-5, 'Highest learning rate of Adam', low=1e-8, high=1)
    warmup: int = option(100, 'Steps of linear rise to the highest learning rate', low=1)
    precision: str = option(
        'fp32', 'Number format of the network; weights stay fp32', choices=('fp32', 'bf16')
    )
    seed: int = option(0, 'Seed of data order, crops and noise', low=0)
    save_every: int = option(500, 'Steps between two saved states', low=1)

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        check(self)


def rate_factor(step: int, config: OptimizeConfig) -> float:
    """Return the learning rate of a step as a share of the highest: rise, then cosine to 1 %."""
    rise = min(1.0, (step + 1) / config.warmup)
    return rise * (0.01 + 0.99 * (0.5 + 0.5 * math.cos(math.pi * step / config.steps)))


def optimize(
    module: nn.Module,
    losses_of: Callable[[int], dict[str, Tensor]],
    config: OptimizeConfig,
    state_file: Path,
    about: Mapping[str, object],
) -> Iterator[tuple[int, dict[str, float]]]:
    """
    Fit a module's trainable weights; yields (steps done, losses by name) after every step.

    A run that was stopped goes on from its state file. Everything random in a step comes from
    (seed, step), so a resumed run makes the same choices as one that never stopped.

    :param losses_of: step number to the losses whose sum is descended.
    :param about: what else makes this run this run, such as its data; a state file of another one
        is refused. More steps, or fewer, are the same run.
    :raises FloatingPointError: a loss is not finite.
    :raises ValueError: the state file is of another run.
    """
    # Measured on a CPU: 30 samples/s become 39.
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    parameters = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, lr=config.learning_rate, weight_decay=1e-4, fused=True
    )
    run = json.loads(json.dumps({**asdict(config), **about}))
    first = _restore(module, optimizer, state_file, run)
    for step in range(first, config.steps):
        for param_group in optimizer.param_groups:
            param_group['lr'] = config.learning_rate * rate_factor(step, config)
        torch.manual_seed(config.seed * 1_000_003 + step)
        with torch.autocast(parameters[0].device.type, torch.bfloat16, config.precision == 'bf16'):
            losses = losses_of(step)
        total = torch.stack(list(losses.values())).sum()
        if not total.isfinite():
            raise FloatingPointError(
                f'step {step}: the loss is {total.item()}; lower learning_rate, or look for '
                'broken frames in the data'
            )
        total.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        done = step + 1
        if done % config.save_every == 0 or done == config.steps:
            _save(module, optimizer, done, state_file, run)
        yield done, {name: loss.item() for name, loss in losses.items()}


def _save(
    module: nn.Module, optimizer: torch.optim.Optimizer, done: int, file: Path, run: Run
) -> None:
    tensors = {f'module.{name}': value for name, value in module.state_dict().items()}
    for index, values in optimizer.state_dict()['state'].items():
        tensors |= {f'optimizer.{index}.{name}': value for name, value in values.items()}
    tensors['done'] = torch.tensor(done)
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix('.part')
    # clone: modules that are shared (one VAE under two names) may not share memory in the file.
    own = {name: value.detach().clone().contiguous() for name, value in tensors.items()}
    save_file(own, part, metadata={'run': json.dumps(run)})
    part.replace(file)


def _restore(module: nn.Module, optimizer: torch.optim.Optimizer, file: Path, run: Run) -> int:
    """Load the state of a stopped run, if there is one; return the steps it had done."""
    if not file.is_file():
        return 0
    with safe_open(file, 'pt') as opened:
        there = json.loads((opened.metadata() or {}).get('run', '{}'))
    for name in run.keys() - FREE:
        if there.get(name) != run[name]:
            raise ValueError(
                f'{file} is of another run, with {name} {there.get(name)} instead of {run[name]}; '
                'choose another folder, or delete the file'
            )
    tensors = load_file(file)
    module.load_state_dict(
        {k.removeprefix('module.'): v for k, v in tensors.items() if k.startswith('module.')}
    )
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith('optimizer.'):
            _, index, name = key.split('.')
            # The fused optimizer reads memory in order: of one layout with the weights.
            if value.ndim == 4:
                value = value.contiguous(memory_format=torch.channels_last)
            state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict(optimizer.state_dict() | {'state': state})
    return int(tensors['done'])
