"""Options of a training; they are read without torch."""

from __future__ import annotations

from dataclasses import dataclass

from sd_perception_ros.config import check, option


@dataclass(frozen=True)
class OptimizeConfig:
    """How long and how fast weights are fitted."""

    steps: int = option(30000, 'Optimizer steps, whatever the number of processes', low=1)
    batch: int = option(32, 'Pictures in a step, over all processes together', low=1)
    accumulate: int = option(
        1, 'Parts that a process runs its pictures in, one after the other, to save memory', low=1
    )
    learning_rate: float = option(3e-5, 'Highest learning rate of Adam', low=1e-8, high=1)
    warmup: int = option(100, 'Steps of linear rise to the highest learning rate', low=1)
    decay: str = option(
        'cosine', 'How the rate falls, to 1 % of the highest', choices=('cosine', 'exponential')
    )
    decay_steps: int = option(0, 'Steps until the rate has fallen; 0: all', low=0)
    precision: str = option(
        'fp32', 'Number format of the network; weights stay fp32', choices=('fp32', 'bf16', 'fp16')
    )
    ema: float = option(
        0.0,
        'Decay of the running mean of weights that is the result; 0: the last weights are',
        low=0,
        high=0.99999,
    )
    seed: int = option(0, 'Seed of data order, crops and noise', low=0)
    graphs: int = option(
        1,
        'On one GPU, record the network for each window size and replay it; 0: do not',
        low=0,
        high=1,
    )
    save_every: int = option(500, 'Steps between two saved states', low=1)

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        check(self)


@dataclass(frozen=True)
class TuneConfig:
    """Which weights of a model move."""

    tune: str = option(
        'full',
        'full: the whole denoiser; lora: low-rank adapters of its attention, merged into it at '
        'the end; heads: nothing but the readouts',
        choices=('full', 'lora', 'heads'),
    )
    lora_rank: int = option(16, 'Rank of the adapters', low=1, high=512)
    checkpointing: int = option(
        0, '1 computes activations twice to save memory (gradient checkpointing)', low=0, high=1
    )

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        check(self)


@dataclass(frozen=True)
class WindowConfig:
    """How the windows that a network sees are taken from pictures."""

    fit: str = option(
        'crop',
        'crop: windows of a picture at its own scale; cover: the picture is scaled until it just '
        'covers the window, for pictures of many sizes',
        choices=('crop', 'cover'),
    )
    workers: int = option(
        2, 'Threads that read pictures while the network computes; 0: none', low=0, high=64
    )

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        check(self)
