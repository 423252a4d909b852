"""ROS parameters from options dataclasses: name, type, range and meaning are declared once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
import difflib
from typing import Any, TypeVar

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.exceptions import ParameterException, ParameterUninitializedException
from rclpy.node import Node
from rclpy.parameter import Parameter

from sd_perception_ros.config import build, flat_options, rename_old

T = TypeVar('T')

# Parameters that every node has or that ROS itself reads.
_ROS_OWN = ('use_sim_time', 'start_type_description_service', 'qos_overrides')


def declare(node: Node, cls: type[T], prefix: str = '') -> T:
    """
    Declare one parameter for each field of an options dataclass and read them all.

    :param prefix: a dotted group in front of every name, for example 'depth.'.
    :returns: the checked options.
    :raises ValueError: a value of the wrong type, out of range or impossible; it names the
        parameter, what it may be and what came.
    """
    for name, hint, default, metadata in flat_options(cls, prefix):
        about = _descriptor(metadata, hint)
        # A list's type cannot be told from an empty default: ROS would make it a byte array.
        # A number may be written as 5 or 5.0; config.check makes it a float.
        about.dynamic_typing = hint is float
        start = Parameter.Type.STRING_ARRAY if default == [] else default
        try:
            node.declare_parameter(name, start, about)
        except ParameterException as error:
            raise ValueError(f"parameter '{name}' ({about.description}): {error}") from None
    return read(node, cls, prefix)


def read(node: Node, cls: type[T], prefix: str = '', change: dict[str, Any] | None = None) -> T:
    """
    Build an options dataclass from parameters that `declare` has declared.

    :param change: values that replace those of the node, by full parameter name.
    :raises ValueError: an impossible value.
    """
    nested: dict[str, Any] = {}
    for name, hint, default, _ in flat_options(cls, prefix):
        try:
            value = node.get_parameter(name).value
        except ParameterUninitializedException:
            value = default
        value = (change or {}).get(name, value)
        if hint == list[str]:
            value = list(value or [])
        *groups, last = name[len(prefix) :].split('.')
        inner = nested
        for key in groups:
            inner = inner.setdefault(key, {})
        inner[last] = value
    return build(cls, nested, f"parameters '{prefix}*'" if prefix else 'parameters')


def replace_old_names(node: Node, new_names: Mapping[str, str]) -> None:
    """
    Give parameters that were set by the names of the release before their new names.

    Call it before `declare`. Each one is a warning in the log.

    :param new_names: old name to new name.
    :raises ValueError: a parameter is set by its old and by its new name.
    """
    # Values from the command line and from parameter files; rclpy has no public access to them.
    overrides = node._parameter_overrides
    renamed = rename_old(overrides, new_names, 'parameters')
    overrides.clear()
    overrides.update(
        (name, Parameter(name, parameter.type_, parameter.value))
        for name, parameter in renamed.items()
    )


def names_of(cls: type[Any], prefix: str = '') -> list[str]:
    """List the full parameter names of an options dataclass."""
    return [option.name for option in flat_options(cls, prefix)]


def likely_typos(node: Node, known: Iterable[str]) -> list[tuple[str, str]]:
    """
    Find names in the parameter file that nobody declared but that look like a known one.

    :returns: pairs of the name in the file and the name that was probably meant.
    """
    known = list(known)
    # A file for several nodes (/**) holds names of the others too, so only a near miss counts.
    # rclpy keeps what the file says here, and offers no public way to ask for it.
    overrides = getattr(node, '_parameter_overrides', {})
    found = []
    for name in overrides:
        if name not in known and name.split('.')[0] not in _ROS_OWN:
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
            found += [(name, close[0])] if close else []
    return found


def _descriptor(metadata: Any, hint: Any) -> ParameterDescriptor:
    about = ParameterDescriptor(description=metadata['doc'])
    if metadata['choices']:
        about.additional_constraints = f'one of: {", ".join(metadata["choices"])}'
    low, high = metadata['low'], metadata['high']
    if low is None or high is None:
        return about
    if hint is int:
        about.integer_range = [IntegerRange(from_value=low, to_value=high, step=1)]
    else:
        span = FloatingPointRange(from_value=float(low), to_value=float(high))
        about.floating_point_range = [span]
    return about
