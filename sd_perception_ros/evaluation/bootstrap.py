"""Comparison of two checkpoints by a paired bootstrap over the same images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from sd_perception_ros.tasks.task import Task

CONFIDENCE = 0.95  # of the interval


class Difference(NamedTuple):
    """
    The difference of a metric between two checkpoints, first minus second.

    :ivar value: on all images.
    :ivar low: lower end of the 95 % interval over images; NaN if no resample has the metric.
    :ivar high: upper end of the interval.
    """

    value: float
    low: float
    high: float

    @property
    def is_clear(self) -> bool:
        """Whether the interval excludes zero."""
        return self.low > 0 or self.high < 0


def paired_bootstrap(
    tasks: tuple[Task, Task],
    measured: tuple[Sequence[Any], Sequence[Any]],
    resamples: int,
    seed: int,
) -> dict[str, Difference]:
    """
    Compare two checkpoints on the same images (percentile bootstrap; Efron and Tibshirani).

    Images are drawn with replacement, the same ones for both checkpoints, so that images that are
    difficult for both do not widen the interval.

    :param tasks: the same task of both checkpoints.
    :param measured: results of `Task.measure` for each image, in the same order.
    :param resamples: number of draws.
    :returns: by name of each metric that both have.
    :raises ValueError: the numbers of images differ.
    """
    count, others = map(len, measured)
    if count != others:
        raise ValueError(f'expected the same images for both, got {count} and {others}')
    observed = _differences(tasks, measured, np.arange(count))
    rng = np.random.default_rng(seed)
    drawn = [
        _differences(tasks, measured, rng.integers(count, size=count)) for _ in range(resamples)
    ]
    return dict(_intervals(observed, drawn))


def _differences(
    tasks: tuple[Task, Task],
    measured: tuple[Sequence[Any], Sequence[Any]],
    indices: np.ndarray[Any, np.dtype[np.int64]],
) -> dict[str, float]:
    first, second = (
        task.summarize([rows[i] for i in indices])
        for task, rows in zip(tasks, measured, strict=True)
    )
    return {name: first[name] - second[name] for name in first if name in second}


def _intervals(
    observed: dict[str, float], drawn: list[dict[str, float]]
) -> Iterator[tuple[str, Difference]]:
    tail = (1 - CONFIDENCE) / 2
    for name, value in observed.items():
        # Some resamples lack a metric, such as the IoU of a rare class.
        values = np.array([differences.get(name, np.nan) for differences in drawn])
        values = values[np.isfinite(values)]
        low, high = np.quantile(values, [tail, 1 - tail]) if len(values) else (np.nan, np.nan)
        yield name, Difference(value, float(low), float(high))
