"""ROS parameters from options dataclasses, which declare name, type, range and description."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
import copy
import difflib
from typing import Any, TypeVar

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.exceptions import ParameterException
from rclpy.node import Node
from rclpy.parameter import Parameter

from sd_perception_ros.config import build, flat_options, rename_old

T = TypeVar('T')

# Parameters of rclpy itself.
_RCLPY_PARAMETERS = ('use_sim_time', 'start_type_description_service', 'qos_overrides')


def declare(
    node: Node, cls: type[T], prefix: str = '', is_read_only: Callable[[str], bool] | None = None
) -> T:
    """
    Declare one parameter for each field of an options dataclass, and read them all.

    :param prefix: group before each name, for example 'depth.'.
    :param is_read_only: returns whether a parameter, by its full name, cannot be changed after
        the start; None: all can be changed.
    :returns: the checked options.
    :raises ValueError: a value of the wrong type or out of range.
    """
    for name, hint, default, metadata in flat_options(cls, prefix):
        descriptor = _descriptor(metadata, hint)
        # Floats may be written as 5 or 5.0; config.check converts them. rclpy takes an empty list
        # for a byte array.
        descriptor.dynamic_typing = hint in (float, list[str])
        try:
            value = node.declare_parameter(name, default, descriptor).value
        except ParameterException as error:
            raise ValueError(f"parameter '{name}' ({descriptor.description}): {error}") from None
        if hint == list[str] and not value:
            # A value and its type: tools that ask for many parameters at once get nothing if a
            # single one of them has no value.
            node.set_parameters([Parameter(name, Parameter.Type.STRING_ARRAY, [])])
        if is_read_only is not None and is_read_only(name):
            fixed = copy.deepcopy(descriptor)  # the node holds the one that it has
            fixed.read_only = True
            node.set_descriptor(name, fixed)
    return read(node, cls, prefix)


def read(node: Node, cls: type[T], prefix: str = '', change: dict[str, Any] | None = None) -> T:
    """
    Build an options dataclass from declared parameters.

    :param change: {full parameter name: value} that replace the node's values.
    :raises ValueError: a value out of range.
    """
    nested: dict[str, Any] = {}
    for name, hint, _, _ in flat_options(cls, prefix):
        value = (change or {}).get(name, node.get_parameter(name).value)
        if hint == list[str]:
            value = _names(name, value)
        *groups, last = name[len(prefix) :].split('.')
        inner = nested
        for key in groups:
            inner = inner.setdefault(key, {})
        inner[last] = value
    return build(cls, nested, f"parameters '{prefix}*'" if prefix else 'parameters')


def replace_old_names(node: Node, new_names: Mapping[str, str]) -> None:
    """
    Rename parameters that are set by their names of the previous release, with a warning for each.

    Call it before `declare`.

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


def replace_old_values(node: Node, new_tasks: Mapping[str, str]) -> None:
    """
    Rewrite the values of the previous release that name tasks, with a warning for each.

    `checkpoints: ['pose=/x']` becomes `human_pose.checkpoint: /x`, and `tasks: [pose]` becomes
    `tasks: [human_pose]`. Call it before `declare`.

    :param new_tasks: old name of a task to its new name.
    :raises ValueError: an entry of `checkpoints` is not task=checkpoint.
    """
    overrides, log = node._parameter_overrides, node.get_logger()
    tasks = overrides.get('tasks')
    if tasks is not None and isinstance(tasks.value, list):
        renamed = [new_tasks.get(task, task) for task in tasks.value]
        if renamed != tasks.value:
            log.warning(f'parameters: tasks {tasks.value} are now called {renamed}')
            overrides['tasks'] = Parameter('tasks', value=renamed)
    checkpoints = overrides.pop('checkpoints', None)
    for entry in checkpoints.value if checkpoints is not None else ():
        task, _, name = str(entry).partition('=')
        if not task or not name:
            raise ValueError(f"parameter 'checkpoints': expected task=checkpoint, got '{entry}'")
        new_name = f'{new_tasks.get(task, task)}.checkpoint'
        log.warning(f"parameters: checkpoints: ['{entry}'] is now {new_name}: {name}")
        overrides[new_name] = Parameter(new_name, value=name)


def parameter_names(cls: type[Any], prefix: str = '') -> list[str]:
    """Return the full parameter names of an options dataclass."""
    return [option.name for option in flat_options(cls, prefix)]


def likely_typos(node: Node, declared: Iterable[str]) -> list[tuple[str, str]]:
    """
    Find parameters that are set but not declared, with a name similar to a declared one.

    :param declared: names of all declared parameters.
    :returns: pairs of the name that is set and the similar name.
    """
    declared = list(declared)
    # A parameter file for several nodes (/**) has names of other nodes, too: report similar ones
    # only. rclpy has no public access to the overrides.
    overrides = getattr(node, '_parameter_overrides', {})
    typos = []
    for name in overrides:
        if name not in declared and name.split('.')[0] not in _RCLPY_PARAMETERS:
            similar = difflib.get_close_matches(name, declared, n=1, cutoff=0.8)
            typos += [(name, similar[0])] if similar else []
    return typos


def _names(name: str, value: Any) -> list[str]:
    """Return the value of a list of names; an empty list has many types in ROS."""
    names = list(value) if isinstance(value, list | tuple) else []
    if (value and not names) or not all(isinstance(item, str) for item in names):
        raise ValueError(f"parameter '{name}' must be a list of names, got {value!r}")
    return names


def _descriptor(metadata: Any, hint: Any) -> ParameterDescriptor:
    descriptor = ParameterDescriptor(description=metadata['doc'])
    if metadata['choices']:
        descriptor.additional_constraints = f'one of: {", ".join(metadata["choices"])}'
    low, high = metadata['low'], metadata['high']
    if low is None or high is None:
        return descriptor
    if hint is int:
        descriptor.integer_range = [IntegerRange(from_value=low, to_value=high, step=1)]
    else:
        value_range = FloatingPointRange(from_value=float(low), to_value=float(high))
        descriptor.floating_point_range = [value_range]
    return descriptor
