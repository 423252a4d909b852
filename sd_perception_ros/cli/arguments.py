"""Command line options from options dataclasses, and a progress bar that shows losses."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import fields
from typing import Any, get_type_hints, TypeVar

from tqdm import tqdm

T = TypeVar('T')


def size(text: str) -> tuple[int, int]:
    """
    Read 'WIDTHxHEIGHT' as (height, width).

    :raises argparse.ArgumentTypeError: not two multiples of 8.
    """
    parts = text.lower().split('x')
    if len(parts) != 2 or not all(part.isdigit() and int(part) % 8 == 0 for part in parts):
        raise argparse.ArgumentTypeError(
            f"expected WIDTHxHEIGHT in multiples of 8, such as 256x192, got '{text}'"
        )
    return int(parts[1]), int(parts[0])


def add_options(parser: argparse.ArgumentParser, cls: type[Any], **defaults: Any) -> None:
    """
    Add one option for each field of an options dataclass, such as --learning-rate.

    :param defaults: what this command uses where the dataclass has another default.
    """
    hints = get_type_hints(cls)
    for f in fields(cls):
        parser.add_argument(
            f'--{f.name.replace("_", "-")}',
            type=hints[f.name],
            default=defaults.get(f.name, f.default),
            help=f'{f.metadata["doc"]} (default: %(default)s)',
        )


def from_options(cls: type[T], arguments: argparse.Namespace) -> T:
    """Build the dataclass from parsed options."""
    names = [f.name for f in fields(cls)]  # type: ignore[arg-type]
    return cls(**{name: getattr(arguments, name) for name in names})


def follow(
    title: str, log: Iterator[tuple[int, dict[str, float]]], total: int, every: int = 50
) -> dict[str, float]:
    """Run a training to its end under a progress bar; return the last mean losses."""
    means: dict[str, float] = {}
    shown: dict[str, float] = {}
    with tqdm(total=total, desc=title, unit='step', mininterval=5) as bar:
        for done, losses in log:
            bar.initial = bar.initial or done - 1
            bar.n = done
            for name, loss in losses.items():
                means[name] = 0.98 * means.get(name, loss) + 0.02 * loss
            if done % every == 0 or done == total:
                shown = {name: round(mean, 4) for name, mean in means.items()}
                bar.set_postfix(shown, refresh=False)
            bar.refresh() if done == total else bar.update(0)
    return shown
