"""Whether one checkpoint is better than another: paired bootstrap over the same pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from sd_perception_ros.tasks.task import Task

SHARE = 0.95  # of the resamples whose difference lies within the interval


class Difference(NamedTuple):
    """
    How much a figure of one exceeds that of the other.

    :ivar value: the difference on the pictures themselves.
    :ivar low: of the 95 % interval over pictures; NaN if no resample has the figure.
    :ivar high: its other end.
    """

    value: float
    low: float
    high: float

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.low > 0 or self.high < 0


def paired_bootstrap(
    tasks: tuple[Task, Task],
    measured: tuple[Sequence[Any], Sequence[Any]],
    resamples: int,
    seed: int,
) -> dict[str, Difference]:
    """
    Compare two checkpoints on the same pictures (percentile bootstrap; Efron and Tibshirani).

    Pictures are drawn with replacement, the same ones for both, so that what makes a picture hard
    for both does not count.

    :param tasks: one task, as either checkpoint has it.
    :param measured: what its `measure` gave for each picture, in the same order.
    :param resamples: how often pictures are drawn.
    :returns: first less second, for each figure that both have.
    :raises ValueError: the numbers of pictures differ.
    """
    count, others = (len(one) for one in measured)
    if count != others:
        raise ValueError(f'expected the same pictures for both, got {count} and {others}')
    everything = _differences(tasks, measured, np.arange(count))
    rng = np.random.default_rng(seed)
    drawn = [
        _differences(tasks, measured, rng.integers(count, size=count)) for _ in range(resamples)
    ]
    return dict(_intervals(everything, drawn))


def _differences(
    tasks: tuple[Task, Task],
    measured: tuple[Sequence[Any], Sequence[Any]],
    indices: np.ndarray[Any, np.dtype[np.int64]],
) -> dict[str, float]:
    one, other = (
        task.summarize([rows[i] for i in indices])
        for task, rows in zip(tasks, measured, strict=True)
    )
    return {name: one[name] - other[name] for name in one if name in other}


def _intervals(
    everything: dict[str, float], drawn: list[dict[str, float]]
) -> Iterator[tuple[str, Difference]]:
    tail = (1 - SHARE) / 2
    for name, value in everything.items():
        # Of a few pictures some figures do not exist, such as the IoU of a class.
        values = np.array([one.get(name, np.nan) for one in drawn])
        values = values[np.isfinite(values)]
        low, high = np.quantile(values, [tail, 1 - tail]) if len(values) else (np.nan, np.nan)
        yield name, Difference(value, float(low), float(high))
