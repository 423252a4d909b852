"""Errors that a node reports and survives, and how they are written into its log."""

from __future__ import annotations

import cv2

from sd_perception_ros.ros.node.shutdown import one_line

# What torch, diffusers, OpenCV and PIL raise for a checkpoint, a device or a picture that they
# cannot handle; their documentation does not list it. CUDA and cuDNN errors and
# torch.OutOfMemoryError are RuntimeErrors. So are rclpy's: handle `shutdown.GONE` first.
# KeyboardInterrupt and SystemExit are not among them: they end the node.
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

# Their text is a sentence of this package or of the system; the type adds nothing.
_SELF_EXPLANATORY = (FloatingPointError, OSError, ValueError)


def format_error(error: BaseException) -> str:
    """Write an error on one line: its type, unless the text explains itself, and its text."""
    if isinstance(error, _SELF_EXPLANATORY):
        return one_line(error)
    return one_line(f'{type(error).__name__}: {error}')


def loading_hint(error: BaseException) -> str:
    """Return what to try after an error while a model was loaded; '' if the error says it."""
    if isinstance(error, _SELF_EXPLANATORY):
        return ''
    if isinstance(error, ImportError):
        package = (error.name or 'PACKAGE').partition('.')[0]
        return f'; python -m pip install {package} (requirements/core.txt has tested versions)'
    return '; try device: cpu, another long_side_px or another checkpoint'


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error is that of the computer's or of a GPU's full memory."""
    # By name, so that torch is not imported for it.
    return isinstance(error, MemoryError) or type(error).__name__ == 'OutOfMemoryError'
