"""Command line options from options dataclasses."""

from __future__ import annotations

import argparse
from dataclasses import fields
from typing import Any, get_type_hints, TypeVar

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
            choices=f.metadata['choices'] or None,
            default=defaults.get(f.name, f.default),
            help=f'{f.metadata["doc"]} (default: %(default)s)',
        )


def from_options(cls: type[T], arguments: argparse.Namespace) -> T:
    """Build the dataclass from parsed options."""
    names = [f.name for f in fields(cls)]  # type: ignore[arg-type]
    return cls(**{name: getattr(arguments, name) for name in names})
