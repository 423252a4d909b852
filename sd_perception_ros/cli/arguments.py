"""Command line options from options dataclasses, for data, and from recipe files."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Sequence
from dataclasses import fields
from pathlib import Path
import sys
from typing import Any, get_type_hints, TypeVar

import yaml

from sd_perception_ros.data.formats import HELP
from sd_perception_ros.git_lfs import refuse_lfs_pointer
from sd_perception_ros.paths import user_path

T = TypeVar('T')
# Fields of TopDownOptions and EngineConfig that are options of `evaluate`.
CROP_OPTIONS = (
    'second_look',
    'second_look_max_cost',
    'max_people',
    'flip_test',
    'crop_height_px',
)
RUN_OPTIONS = ('device', 'precision', 'runtime', 'long_side_px')


def command_parser(
    command: str, description: str | None, epilog: str, allow_abbrev: bool = True
) -> argparse.ArgumentParser:
    """Return the parser of a command; line breaks of description and epilog are kept."""
    return argparse.ArgumentParser(
        prog=f'python -m sd_perception_ros {command}',
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=allow_abbrev,
    )


def size(text: str) -> tuple[int, int]:
    """
    Read 'WIDTHxHEIGHT' as (height, width).

    :raises argparse.ArgumentTypeError: not two multiples of 8.
    """
    parts = text.lower().split('x')
    if len(parts) != 2 or not all(
        part.isdigit() and int(part) % 8 == 0 < int(part) for part in parts
    ):
        raise argparse.ArgumentTypeError(
            f"expected WIDTHxHEIGHT in multiples of 8, such as 256x192, got '{text}'"
        )
    return int(parts[1]), int(parts[0])


def add_options(
    parser: argparse.ArgumentParser, cls: type[Any], only: Collection[str] = (), **defaults: Any
) -> None:
    """
    Add one option for each field of an options dataclass, such as --learning-rate.

    A boolean field `cuda_graphs` becomes two flags: --cuda-graphs and --no-cuda-graphs.

    :param only: names of the fields to add; empty: all.
    :param defaults: defaults of this command that differ from the dataclass.
    """
    hints = get_type_hints(cls)
    for f in [f for f in fields(cls) if not only or f.name in only]:
        kind: dict[str, Any] = {'type': hints[f.name], 'choices': f.metadata['choices'] or None}
        if hints[f.name] is bool:
            kind = {'action': argparse.BooleanOptionalAction}
        parser.add_argument(
            f'--{f.name.replace("_", "-")}',
            default=defaults.get(f.name, f.default),
            help=f'{f.metadata["doc"].replace("%", "%%")} (default: %(default)s)',
            **kind,
        )


def add_data(parser: argparse.ArgumentParser, name: str = '--data', **options: Any) -> None:
    """
    Add an option for data (`open_data`): one or more words; may be repeated.

    :param options: options of argparse, such as required.
    """
    about = options.pop('help', 'Images with ground truth')
    parser.add_argument(
        name, nargs='+', action='extend', metavar='KIND:PATH', help=f'{about}: {HELP}', **options
    )


def from_options(cls: type[T], arguments: argparse.Namespace) -> T:
    """Build the dataclass from parsed options."""
    names = [f.name for f in fields(cls)]  # type: ignore[arg-type]
    return cls(**{name: getattr(arguments, name) for name in names})


def parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """
    Parse a command line with the option `--recipe FILE.yaml`, a file with options.

    Options on the command line replace those of the recipe, and those replace the options of the
    recipe that it `extends`; all are checked in the same way.

    :raises FileNotFoundError: no such recipe.
    :raises ValueError: the recipe is not a mapping from options to values.
    """
    parser.add_argument('--recipe', type=user_path, help='YAML file with any of these options')
    words = list(sys.argv[1:] if argv is None else argv)
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument('--recipe', type=user_path)
    recipe = early.parse_known_args(words)[0].recipe
    given = {word.partition('=')[0] for word in words}
    first = []
    for name, value in (_recipe(recipe) if recipe else {}).items():
        option = name.replace('_', '-')
        if f'--{option}' in given:
            continue
        if isinstance(value, bool):
            first.append(f'--{option}' if value else f'--no-{option}')
        else:
            values = value if isinstance(value, list) else [value]
            first += [f'--{option}', *map(str, values)]
    return parser.parse_args([*first, *words])


def _recipe(file: Path) -> dict[str, Any]:
    """Return the options of a recipe, including those of the recipe that it extends."""
    if not file.is_file():
        raise FileNotFoundError(f'expected a recipe, found no file at {file}')
    refuse_lfs_pointer(file)
    try:
        options = yaml.safe_load(file.read_text())
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f'{file} is not YAML ({" ".join(str(error).split())})') from None
    if not isinstance(options, dict):
        raise ValueError(
            f"{file}: expected a mapping such as 'learning_rate: 3e-5', got {options!r}"
        )
    named = {str(name).replace('-', '_'): value for name, value in options.items()}
    parent = named.pop('extends', None)
    return {**(_recipe(file.parent / user_path(parent)) if parent else {}), **named}
