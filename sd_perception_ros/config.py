"""Options as frozen dataclasses: a field declares default, description, range and choices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, MISSING
import difflib
import logging
import reprlib
from typing import Any, get_type_hints, NamedTuple, TypeVar

T = TypeVar('T')
LOG = logging.getLogger(__name__)

ONNX_RUNTIMES = ('onnxruntime', 'openvino')  # runtimes that need a model's ONNX files
GPU_RUNTIMES = ('tensorrt', 'onnxruntime')  # that serve on CUDA in place of torch


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

    :param default: default value; declared only here.
    :param doc: description in one sentence: meaning and unit.
    :param low: smallest allowed number, inclusive.
    :param high: largest allowed number, inclusive.
    :param choices: all allowed strings.
    """
    metadata = {'doc': doc, 'low': low, 'high': high, 'choices': choices}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def group(cls: type[T]) -> T:
    """Declare a field that is an options dataclass: a group of parameters, 'group.name'."""
    declared: T = field(default_factory=cls)
    return declared


def check(options: Any) -> None:
    """
    Check every field of an options dataclass; call it from `__post_init__`.

    :raises ValueError: a value of the wrong type, out of range, or no choice.
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
            raise ValueError(
                f'{name} must be {_a(hint)}, got {_short(value)} ({type(value).__name__})'
            )
        low, high = f.metadata.get('low'), f.metadata.get('high')
        # `not >=` instead of `<`: NaN is out of every range.
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
    Build an options dataclass from nested dictionaries, for example from a YAML file.

    :param values: {field: value}; the value of a group is a dictionary.
    :param where: file or group of these values, for error messages.
    :raises ValueError: unknown key (with a suggestion), missing key, or as for `check`.
    """
    prefix = f'{where}: ' if where else ''
    if not isinstance(values, Mapping):
        raise ValueError(f'{prefix}expected a mapping of options, got {type(values).__name__}')
    declared = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
    hints = get_type_hints(cls)
    for key in values:
        if key not in declared:
            raise ValueError(f'{prefix}{_unknown(str(key), list(declared))}')
    for f in declared.values():
        if f.default is MISSING and f.default_factory is MISSING and f.name not in values:
            raise ValueError(f"{prefix}option '{f.name}' is missing")
    arguments = {
        key: build(hints[key], value, f'{where}.{key}' if where else key)
        if is_dataclass(hints[key])
        else value
        for key, value in values.items()
    }
    try:
        return cls(**arguments)
    except ValueError as error:
        raise ValueError(f'{prefix}{error}') from None


def rename_old(values: Mapping[str, T], new_names: Mapping[str, str], where: str) -> dict[str, T]:
    """
    Replace option names of the previous release by their new names, and log a warning for each.

    :param values: {name: value}.
    :param new_names: {old name: new name}.
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
                where,
                name,
                new_name,
            )
        renamed[new_name] = value
    return renamed


class FlatOption(NamedTuple):
    """
    A field of an options dataclass or of one of its groups.

    :ivar name: with the groups, for example 'scale.source'.
    :ivar kind: type: bool, int, float, str, list[str], or a mapping.
    :ivar metadata: arguments of `option`: doc, low, high, choices.
    """

    name: str
    kind: Any
    default: Any
    metadata: Mapping[str, Any]


def flat_options(cls: type[Any], prefix: str = '') -> Iterator[FlatOption]:
    """Yield all fields of an options dataclass, including those of its groups."""
    hints = get_type_hints(cls)
    for f in fields(cls):
        name, kind = prefix + f.name, hints[f.name]
        if isinstance(kind, type) and is_dataclass(kind):
            yield from flat_options(kind, f'{name}.')
            continue
        default = f.default if f.default_factory is MISSING else f.default_factory()
        yield FlatOption(name, kind, default, f.metadata)


def _short(value: Any) -> str:
    """Format a value for an error; only its type if it is long."""
    text = reprlib.repr(value)  # bounded: aliases of YAML can make a value of any size
    # It leaves out the middle of a long text, and its end may be secret, too.
    shortened = isinstance(value, str) and len(value) > reprlib.aRepr.maxstring - 2
    return f'a long {type(value).__name__}' if shortened or len(text) > 40 else text


def _unknown(key: str, declared: list[str]) -> str:
    similar = difflib.get_close_matches(key, declared, n=1)
    choices = f'choose one of: {_list(declared)}' if declared else 'there are no options here'
    hint = f"did you mean '{similar[0]}'?" if similar else choices
    return f"unknown option '{key}'; {hint}"


def _list(names: Any) -> str:
    return ', '.join(names)


def _a(hint: type) -> str:
    return {bool: 'true or false', int: 'an integer', float: 'a number', str: 'a string'}[hint]


@dataclass(frozen=True)
class EngineConfig:
    """Checkpoint, device and runtime of the model."""

    checkpoint: str = option(
        'bundled', "A known name ('bundled'), a checkpoint folder, or a checkpoint.yaml"
    )
    tasks: list[str] = option([], 'Tasks to load, for example [depth, normals]; empty: all')
    device: str = option(
        'auto', "Torch device: 'cpu', 'cuda:0', or auto: CUDA if it is available, else cpu"
    )
    precision: str = option(
        'auto',
        'Floating-point format; auto: bf16 on CUDA (fp16 on older GPUs and with tensorrt or '
        'onnxruntime), fp32 elsewhere',
        choices=('auto', 'fp32', 'fp16', 'bf16'),
    )
    runtime: str = option(
        'torch',
        'Inference runtime; auto: the fastest installed one, with its reason in the log. '
        'torch-compile needs a minute or more to start, onnxruntime and openvino some seconds at '
        'the first start. On CUDA, torch serves until the engines of tensorrt or onnxruntime are '
        'built',
        choices=('auto', 'torch', 'torch-compile', *ONNX_RUNTIMES, 'tensorrt'),
    )
    cuda_graphs: bool = option(
        True, 'On CUDA, record the kernels of a frame as a CUDA graph and replay it'
    )
    long_side_px: int = option(
        0, 'Longer side of the network input; 0: value of the checkpoint', low=0, high=4096
    )
    threads: int = option(0, "CPU threads of the network; 0: torch's default", low=0, high=256)
    accept_license: bool = option(
        False, 'Do not warn about weights whose licence excludes commercial use'
    )

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        check(self)
