"""The node's parameters on the command line of `predict`: from a parameter file and from -p."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
import difflib
from pathlib import Path
from typing import Any, TypeVar

import yaml

from sd_perception_ros.config import build, EngineConfig, flat_options
from sd_perception_ros.data.files import read_text
from sd_perception_ros.paths import expand_home
from sd_perception_ros.ros.options import CameraOptions, NODES

T = TypeVar('T')
_OF_NODE = [flat for options in NODES['perception'] for flat in flat_options(options)]
_NAMES = [flat.name for flat in _OF_NODE]
_OF_CAMERA = {flat.name for flat in flat_options(CameraOptions)}
# Sections of a parameter file that hold for the perception node.
_SECTIONS = ('/**', 'perception', '/perception')


def node_parameters(file: Path | None, assignments: Sequence[str]) -> dict[str, Any]:
    """
    Read parameters of the perception node: {'depth.scale.source': 'ground'}.

    :param file: ROS parameter file; parameters of the camera node in it are ignored.
    :param assignments: texts 'NAME:=VALUE', which replace the values of the file.
    :raises OSError: the file cannot be read.
    :raises ValueError: unknown parameter, or not the form of a parameter file or assignment.
    """
    values = {} if file is None else _from_file(file)
    for text in assignments:
        name, sign, value = text.partition(':=')
        if not sign or not name:
            raise ValueError(
                f"expected -p NAME:=VALUE, such as depth.scale.source:=ground, got '{text}'"
            )
        _check_known([name], '-p')
        values[name] = _value(value, f'-p {text}')
    return values


def options_of(cls: type[T], values: Mapping[str, Any]) -> T:
    """
    Build an options dataclass of the node from {parameter: value}; others are ignored.

    :raises ValueError: a value of the wrong type or out of range.
    """
    nested: dict[str, Any] = {}
    for name, kind, _, _ in flat_options(cls):
        if name not in values:
            continue
        *groups, last = name.split('.')
        inner = nested
        for key in groups:
            inner = inner.setdefault(key, {})
        value = values[name]
        inner[last] = [item for item in value if item] if kind == list[str] else value
    return build(cls, nested, 'parameters')


def engine_defaults(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the given parameters that are fields of `EngineConfig`."""
    return {f.name: values[f.name] for f in fields(EngineConfig) if f.name in values}


def _from_file(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(read_text(file))
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f'{file} is not YAML ({" ".join(str(error).split())})') from None
    sections = content if isinstance(content, Mapping) else {}
    found = [sections[name] for name in _SECTIONS if isinstance(sections.get(name), Mapping)]
    values: dict[str, Any] = {}
    for section in found:
        values |= _flat(section.get('ros__parameters') or {})
    if not found:
        raise ValueError(
            f"{file}: expected a parameter file with '/**: ros__parameters:' or 'perception: "
            "ros__parameters:', found neither"
        )
    values = {name: value for name, value in values.items() if name not in _OF_CAMERA}
    _check_known(values, str(file))
    return values


def _flat(values: Any, prefix: str = '') -> dict[str, Any]:
    """Write groups as dots: {'depth': {'scale': ...}} -> {'depth.scale': ...}."""
    flat: dict[str, Any] = {}
    for name, value in values.items() if isinstance(values, Mapping) else ():
        if isinstance(value, Mapping):
            flat |= _flat(value, f'{prefix}{name}.')
        else:
            flat[f'{prefix}{name}'] = expand_home(value) if isinstance(value, str) else value
    return flat


def _value(text: str, where: str) -> Any:
    """Read a value as ROS does: as YAML."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f'{where}: not a value ({" ".join(str(error).split())})') from None
    if value is None:
        return ''
    return expand_home(value) if isinstance(value, str) else value


def _check_known(names: Iterable[str], where: str) -> None:
    for name in names:
        if name in _NAMES or name.split('.')[0] in ('use_sim_time', 'qos_overrides'):
            continue
        # First by the last part: 'camera_height_m' is 'depth.scale.camera_height_m'.
        by_last = {known.rpartition('.')[2]: known for known in reversed(_NAMES)}
        last = difflib.get_close_matches(name.rpartition('.')[2], by_last, n=1)
        exact = [by_last[word] for word in last if word == name]
        similar = difflib.get_close_matches(name, _NAMES, n=1, cutoff=0.8)
        guess = exact or similar or [by_last[word] for word in last]
        hint = f"did you mean '{guess[0]}'?" if guess else 'docs/parameters.md lists them'
        raise ValueError(f"{where}: the node has no parameter '{name}'; {hint}")
