"""Errors that a node reports without ending, and their texts."""

from __future__ import annotations

import cv2

from sd_perception_ros.ros.node.shutdown import one_line

# Errors of torch, diffusers, OpenCV and PIL for a checkpoint, a device or an image that they
# cannot handle; they do not document them. Errors of CUDA and cuDNN and torch.OutOfMemoryError are
# RuntimeErrors. So are those of rclpy: handle `shutdown.CONTEXT_SHUTDOWN_ERRORS` first.
# KeyboardInterrupt and SystemExit are not included: they end the node.
SURVIVABLE_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    BufferError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    cv2.error,
)

# Errors whose text is complete without their type.
_SELF_EXPLANATORY = (FloatingPointError, OSError, ValueError)


def format_error(error: BaseException) -> str:
    """Format an error in one line, with its type unless the text is complete."""
    if isinstance(error, _SELF_EXPLANATORY):
        return one_line(error)
    return one_line(f'{type(error).__name__}: {error}')


def loading_hint(error: BaseException) -> str:
    """Return a hint after an error while loading a model; empty if the error has its own."""
    if isinstance(error, _SELF_EXPLANATORY):
        return ''
    if isinstance(error, ImportError):
        package = (error.name or 'PACKAGE').partition('.')[0]
        return f'; python -m pip install {package} (requirements/core.txt has tested versions)'
    return '; try device: cpu, another long_side_px or another checkpoint'


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether the memory of the computer or of the GPU was exhausted."""
    # Compare the name, to avoid importing torch.
    return isinstance(error, MemoryError) or type(error).__name__ == 'OutOfMemoryError'
