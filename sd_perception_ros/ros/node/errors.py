"""Errors that a node reports without ending, and their texts."""

from __future__ import annotations

from collections.abc import Callable
import functools
from typing import Any

from rclpy.lifecycle import TransitionCallbackReturn

from sd_perception_ros.ros.node.shutdown import (
    CONTEXT_SHUTDOWN_ERRORS,
    one_line,
    SURVIVABLE_ERRORS,
)

# Errors whose text is complete without their type.
_SELF_EXPLANATORY = (FloatingPointError, OSError, ValueError)


def format_error(error: BaseException) -> str:
    """Format an error in one line, with its type unless the text is complete."""
    if isinstance(error, _SELF_EXPLANATORY):
        return one_line(error)
    return one_line(f'{type(error).__name__}: {error}')


def reports_errors(transition: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """
    Let a lifecycle transition of a node report its errors, which rclpy would ignore silently.

    The transition fails: the node stays in the state that it was in.
    """
    name = transition.__name__.removeprefix('on_')

    @functools.wraps(transition)
    def reported(node: Any, state: Any) -> Any:
        try:
            return transition(node, state)
        except CONTEXT_SHUTDOWN_ERRORS:
            if node.context.ok():
                raise
            return TransitionCallbackReturn.ERROR
        except SURVIVABLE_ERRORS as error:
            node.get_logger().error(f'{name} failed: {format_error(error)}')
            return TransitionCallbackReturn.FAILURE

    return reported


def loading_hint(error: BaseException) -> str:
    """Return a hint after an error while loading a model; empty if the error has its own."""
    if isinstance(error, _SELF_EXPLANATORY):
        return ''
    if isinstance(error, ImportError):
        package = (error.name or 'PACKAGE').partition('.')[0]
        return f'; python -m pip install {package} (requirements/core.txt has tested versions)'
    return '; try device: cpu, another long_side_px or another checkpoint'


# What CUDA, the allocators of torch and ONNX Runtime, and C++ say of exhausted memory.
_OUT_OF_MEMORY = (
    'out of memory',
    "can't allocate memory",
    'failed to allocate memory',
    'bad allocation',
    'bad_alloc',
    'cudnn_status_alloc_failed',
    'cublas_status_alloc_failed',
)
# What CUDA says after an error of a kernel: each later call in this process fails, too.
_DEVICE_LOST = (
    'cuda error',
    'device-side assert',
    'illegal memory access',
    'illegal address',
    'unspecified launch failure',
    'misaligned address',
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether the memory of the computer or of the GPU was exhausted."""
    # Compare the name, to avoid importing torch.
    if isinstance(error, MemoryError) or type(error).__name__ == 'OutOfMemoryError':
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in text for words in _OUT_OF_MEMORY)


def is_device_lost(error: BaseException) -> bool:
    """Return whether the GPU cannot be used again by this process (its CUDA context is dead)."""
    text = str(error).lower()
    return (
        isinstance(error, RuntimeError)
        and not is_out_of_memory(error)
        and any(words in text for words in _DEVICE_LOST)
    )
