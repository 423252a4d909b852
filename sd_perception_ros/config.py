"""Options declared once: default, meaning, range and choices live in a frozen dataclass field."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, MISSING
import difflib
import logging
from typing import Any, get_type_hints, NamedTuple, TypeVar

T = TypeVar('T')
LOG = logging.getLogger(__name__)

ONNX_RUNTIMES = ('onnxruntime', 'openvino')  # they run a model's ONNX files


def option(
    default: Any,
    doc: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    """
    Declare a field of an options dataclass.

    :param default: the one place where this default is written.
    :param doc: one sentence for people: meaning and unit.
    :param low: smallest allowed value of a number, inclusive.
    :param high: largest allowed value of a number, inclusive.
    :param choices: every allowed value of a string.
    """
    metadata = {'doc': doc, 'low': low, 'high': high, 'choices': choices}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def group(cls: type[T]) -> T:
    """Declare a field that is itself an options dataclass (a dotted group of parameters)."""
    made: T = field(default_factory=cls)
    return made


def check(options: Any) -> None:
    """
    Check every field of an options dataclass; call it from `__post_init__`.

    :raises ValueError: names the option, what it may be and what came.
    """
    hints = get_type_hints(type(options))
    for f in fields(options):
        value, hint = getattr(options, f.name), hints[f.name]
        if is_dataclass(value):
            continue
        name = f'{type(options).__name__}.{f.name}'
        if hint is float and type(value) is int:
            object.__setattr__(options, f.name, float(value))
        elif hint in (bool, int, float, str) and type(value) is not hint:
            raise ValueError(f'{name} must be {_a(hint)}, got {value!r} ({type(value).__name__})')
        low, high = f.metadata.get('low'), f.metadata.get('high')
        # Written so that NaN, which compares false with everything, is out of every range.
        if low is not None and not value >= low:
            raise ValueError(f'{name} must be at least {low}, got {value}')
        if high is not None and not value <= high:
            raise ValueError(f'{name} must be at most {high}, got {value}')
        choices = f.metadata.get('choices') or ()
        for item in value if isinstance(value, list) else [value]:
            if choices and item not in choices:
                raise ValueError(f"{name} has no choice '{item}'; choose one of: {_list(choices)}")


def build(cls: type[T], values: Mapping[str, Any], where: str = '') -> T:
    """
    Build an options dataclass from nested dictionaries, as they come from a YAML file.

    :param values: field name to value; a group is a dictionary of its own.
    :param where: what the user calls the place of these values, for error messages.
    :raises ValueError: unknown key (with a guess), missing key, or a value that `check` refuses.
    """
    at = f'{where}: ' if where else ''
    if not isinstance(values, Mapping):
        raise ValueError(f'{at}expected a mapping of options, got {values!r}')
    known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
    hints = get_type_hints(cls)
    for key in values:
        if key not in known:
            raise ValueError(f'{at}{_unknown(str(key), list(known))}')
    for f in known.values():
        if f.default is MISSING and f.default_factory is MISSING and f.name not in values:
            raise ValueError(f"{at}option '{f.name}' is missing")
    made = {
        key: build(hints[key], value, f'{where}.{key}' if where else key)
        if is_dataclass(hints[key])
        else value
        for key, value in values.items()
    }
    try:
        return cls(**made)
    except ValueError as error:
        raise ValueError(f'{at}{error}') from None


def rename_old(values: Mapping[str, T], new_names: Mapping[str, str], where: str) -> dict[str, T]:
    """
    Replace option names of the release before by their new names, and log a warning for each.

    :param values: option name to value.
    :param new_names: old name to new name.
    :param where: file or group of these options, for the warning.
    :raises ValueError: an option has a value under its old and under its new name.
    """
    renamed: dict[str, T] = {}
    for name, value in values.items():
        new_name = new_names.get(name, name)
        if new_name != name:
            if new_name in values:
                raise ValueError(
                    f"{where}: '{name}' is the old name of '{new_name}', and both are given; "
                    f"remove '{name}'"
                )
            LOG.warning(
                "%s: '%s' is now called '%s'; the old name works in this release only",
                where, name, new_name,
            )  # fmt: skip
        renamed[new_name] = value
    return renamed


class FlatOption(NamedTuple):
    """
    A field of an options dataclass or of one of its groups.

    :ivar name: dotted, such as 'scale.source'.
    :ivar kind: its type: bool, int, float, str, list[str], or a mapping.
    :ivar about: what `option` was given: doc, low, high, choices.
    """

    name: str
    kind: Any
    default: Any
    about: Mapping[str, Any]


def flat_options(cls: type[Any], prefix: str = '') -> Iterator[FlatOption]:
    """Yield every field of an options dataclass, those of groups by dotted names."""
    hints = get_type_hints(cls)
    for f in fields(cls):
        name, kind = prefix + f.name, hints[f.name]
        if isinstance(kind, type) and is_dataclass(kind):
            yield from flat_options(kind, f'{name}.')
            continue
        default = f.default if f.default_factory is MISSING else f.default_factory()
        yield FlatOption(name, kind, default, f.metadata)


def _unknown(key: str, known: list[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    choices = f'choose one of: {_list(known)}' if known else 'there are none here'
    hint = f"did you mean '{close[0]}'?" if close else choices
    return f"unknown option '{key}'; {hint}"


def _list(names: Any) -> str:
    return ', '.join(names)


def _a(hint: type) -> str:
    return {bool: 'true or false', int: 'an integer', float: 'a number', str: 'a string'}[hint]


@dataclass(frozen=True)
class EngineConfig:
    """How a trained model is run."""

    checkpoint: str = option(
        'bundled', "A known name ('bundled'), a checkpoint folder, or a checkpoint.yaml"
    )
    tasks: list[str] = option([], 'Tasks to run, for example [depth, normals]; empty: all')
    device: str = option('auto', "Torch device: auto (CUDA where it is), 'cpu' or 'cuda:0'")
    precision: str = option(
        'auto',
        'Number format of the network: auto is bf16 on CUDA (older GPUs: fp16) and fp32 elsewhere',
        choices=('auto', 'fp32', 'fp16', 'bf16'),
    )
    runtime: str = option(
        'torch',
        'What runs the network; auto: the fastest one here, and the log says which and why; '
        'torch-compile takes a minute or more to start, onnxruntime and openvino some seconds '
        'the first time',
        choices=('auto', 'torch', 'torch-compile', *ONNX_RUNTIMES),
    )
    cuda_graphs: bool = option(
        True, 'On CUDA, record what a frame does and replay it: one launch instead of hundreds'
    )
    long_side_px: int = option(
        0, 'Longer image side seen by the model; 0: as the checkpoint says', low=0, high=4096
    )
    threads: int = option(0, 'CPU threads of the network; 0: let torch choose', low=0, high=256)

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        check(self)
