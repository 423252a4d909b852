"""Run a node until it finishes or a signal arrives, and shut down without a traceback."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
import contextlib
import re
import signal
import sys
import threading
import traceback
import types
from typing import Protocol

import rclpy
from rclpy.exceptions import InvalidHandle
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation as _rclpy
from rclpy.logging import get_logger
from rclpy.task import Future
from rclpy.utilities import remove_ros_args

from sd_perception_ros.paths import printable

# RESTART: only a new process can go on, after a hang or the loss of the GPU.
OK, FAILED, WRONG_USE, RESTART = 0, 1, 2, 3

# Errors that rclpy raises in any call once the context is shut down.
CONTEXT_SHUTDOWN_ERRORS = (_rclpy.RCLError, InvalidHandle)

# Errors of torch, diffusers, safetensors, ONNX Runtime, OpenCV, PIL and others for a checkpoint, a
# device or an image that they cannot handle. They document few of them, and derive many from
# Exception itself. Those of rclpy are among them: handle `CONTEXT_SHUTDOWN_ERRORS` first.
# KeyboardInterrupt and SystemExit are not included: they end the node.
SURVIVABLE_ERRORS = (Exception,)


class RunnableNode(Protocol):
    """A node for `run_node`."""

    finished: Future

    def start(self) -> None:
        """Start; set `finished` to an exit code to end the process."""

    def close(self) -> None:
        """Stop all threads; called once, also after an error in `start`."""

    def destroy_node(self) -> None:
        """Destroy publishers, subscriptions and services (rclpy)."""


class StopSignal:
    """Raise KeyboardInterrupt for the first SIGINT or SIGTERM; ignore later ones."""

    _is_postponed, _is_pending = False, False  # of the whole process; see `postponed`

    def __init__(self) -> None:
        self.is_received = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._interrupt)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})

    def _interrupt(self, number: int, frame: types.FrameType | None) -> None:
        # rclpy puts its own handler in front of this one: it wakes the executor, then calls us.
        if self.is_received:
            return
        self.is_received = True
        if StopSignal._is_postponed:
            StopSignal._is_pending = True
        else:
            raise KeyboardInterrupt

    @classmethod
    @contextlib.contextmanager
    def postponed(cls) -> Iterator[None]:
        """
        Postpone the KeyboardInterrupt of a signal until the end of this block.

        For imports: an exception that passes through them may terminate Python by the signal,
        although it is caught. In threads other than the main thread this does nothing: Python
        handles signals in the main thread.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        cls._is_postponed = True
        try:
            yield
        finally:
            cls._is_postponed = False
        if cls._is_pending:
            cls._is_pending = False
            raise KeyboardInterrupt


def run_node(
    make: Callable[[], RunnableNode], name: str, argv: Sequence[str] | None = None
) -> int:
    """
    Make a node and spin it until it finishes or a signal arrives.

    :param make: makes the node; raises ValueError for a wrong parameter.
    :param name: name of the logger until the node exists.
    :param argv: arguments without the program's name; None: those of this process.
    :returns: exit code: 0 after a signal, 2 for a wrong parameter or argument, else the result of
        the node's `finished` (3: start the process anew).
    """
    stop = StopSignal()
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(make, name, argv)
    except (KeyboardInterrupt, ExternalShutdownException):
        return OK
    except CONTEXT_SHUTDOWN_ERRORS:
        if not stop.is_received:
            raise
        return OK
    finally:
        stop.is_received = True
        rclpy.try_shutdown()


def _run(make: Callable[[], RunnableNode], name: str, argv: list[str]) -> int:
    try:
        check_utf8(argv)
        other = remove_ros_args(argv)
        if other:
            raise ValueError(
                f"expected ROS arguments, got '{' '.join(other)}'; write --ros-args before them, "
                'for example: --ros-args --params-file config/perception.yaml'
            )
        rclpy.init(args=argv)
        node = make()
    # RCLError: the parameter file is missing or not YAML.
    except (ValueError, _rclpy.RCLError, _rclpy.UnknownROSArgsError) as error:
        get_logger(name).error(one_line(error))
        return WRONG_USE
    try:
        executor = SingleThreadedExecutor()
        try:
            executor.add_node(node)
            node.start()
            executor.spin_until_future_complete(node.finished)
            return node.finished.result() if node.finished.done() else OK
        except (ExternalShutdownException, *CONTEXT_SHUTDOWN_ERRORS):
            raise
        # Of a callback: an error of this package, or of a library.
        except SURVIVABLE_ERRORS as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            get_logger(name).fatal(
                f'ended by {type(error).__name__}: {one_line(error)} '
                f'({place.filename}, line {place.lineno})'
            )
            get_logger(name).debug(traceback.format_exc())
            return FAILED
        finally:  # before the context is shut down: later the executor's destructor would fail
            executor.shutdown()
    finally:
        node.close()
        node.destroy_node()


def check_utf8(arguments: Sequence[str]) -> None:
    """
    Refuse arguments that ROS cannot pass on.

    :raises ValueError: an argument, such as a path, is not UTF-8.
    """
    for argument in arguments:
        if printable(argument) != argument:
            raise ValueError(
                f"the argument '{printable(argument)}' is not UTF-8, and ROS takes nothing else; "
                'rename the file or folder, or give a symbolic link with another name'
            )


def one_line(error: object) -> str:
    """Format an error in one line of valid UTF-8, without the names of ROS's source files."""
    return re.sub(r', at /[^ ,]+\.(c|cpp):\d+', '', printable(' '.join(str(error).split())))
