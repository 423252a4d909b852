"""What may fail in a model or with a picture, by name, and how the log tells it."""

from __future__ import annotations

import cv2

from sd_perception_ros.ros.node.shutdown import one_line

# What torch, diffusers, OpenCV and PIL raise for a checkpoint, a device or a picture that they
# cannot handle. Their documentation does not list it, and one odd frame must not end a robot's
# node; KeyboardInterrupt and SystemExit are no faults. torch.OutOfMemoryError and every CUDA and
# cuDNN error are RuntimeErrors. But rclpy's own errors are, too: handle `shutdown.GONE` before.
FAULTS = (
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

# Written by this package for people, or by the system: the type adds nothing.
_EXPLAINED = (FloatingPointError, OSError, ValueError)


def described(error: BaseException) -> str:
    """Write an error on one line, with its type unless its text was written for people."""
    if isinstance(error, _EXPLAINED):
        return one_line(error)
    return one_line(f'{type(error).__name__}: {error}')


def remedy(error: BaseException) -> str:
    """Say what to do about an error while a model is loaded; empty where the error says it."""
    if isinstance(error, _EXPLAINED):
        return ''
    if isinstance(error, ImportError):
        return '; install what is missing with pip (requirements/core.txt has the versions)'
    return '; try device: cpu, another long_side_px or another checkpoint'
