"""Run a node until a signal and leave without a traceback, whatever it was doing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
import contextlib
import re
import signal
import sys
import threading
import types
from typing import Protocol

import rclpy
from rclpy.exceptions import InvalidHandle
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation as _rclpy
from rclpy.logging import get_logger
from rclpy.task import Future
from rclpy.utilities import remove_ros_args

OK, FAILED, WRONG_USE = 0, 1, 2

# What rclpy raises from the middle of a call when the context went down under it.
GONE = (_rclpy.RCLError, InvalidHandle)


class Runnable(Protocol):
    """A node that `run_node` can run."""

    finished: Future

    def start(self) -> None:
        """Begin to work; set `finished` to an exit code to end the process."""

    def close(self) -> None:
        """Stop every thread; called once, also when `start` did not get far."""

    def destroy_node(self) -> None:
        """Destroy publishers, subscriptions and services (rclpy)."""


class StopSignal:
    """SIGINT and SIGTERM both raise KeyboardInterrupt, once; later ones are ignored."""

    _waits, _came = False, False  # of the process: `postponed`

    def __init__(self) -> None:
        self.seen = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._interrupt)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})

    def _interrupt(self, number: int, frame: types.FrameType | None) -> None:
        # rclpy puts its own handler in front of this one: it wakes the executor, then calls us.
        if self.seen:
            return
        self.seen = True
        if StopSignal._waits:
            StopSignal._came = True
        else:
            raise KeyboardInterrupt

    @classmethod
    @contextlib.contextmanager
    def postponed(cls) -> Iterator[None]:
        """
        Raise KeyboardInterrupt after this block if a signal comes within it.

        For imports: one that passes through them may end Python by the signal, although it is
        caught. Python handles signals in its main thread; in others this does nothing.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        cls._waits = True
        try:
            yield
        finally:
            cls._waits = False
        if cls._came:
            cls._came = False
            raise KeyboardInterrupt


def run_node(make: Callable[[], Runnable], name: str, argv: Sequence[str] | None = None) -> int:
    """
    Make a node and spin it until it finishes or a signal comes.

    :param make: builds the node; a ValueError from it is a wrong parameter.
    :param name: logger name while there is no node.
    :param argv: arguments behind the program's name; None: those of this process.
    :returns: exit code: 0 after a signal, 2 for a wrong parameter or argument, else what the
        node set.
    """
    stop = StopSignal()
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(make, name, argv)
    except (KeyboardInterrupt, ExternalShutdownException):
        return OK
    except GONE:
        if not stop.seen:
            raise
        return OK
    finally:
        stop.seen = True
        rclpy.try_shutdown()


def _run(make: Callable[[], Runnable], name: str, argv: list[str]) -> int:
    try:
        other = remove_ros_args(argv)
        if other:
            raise ValueError(
                f"expected ROS arguments only, got '{' '.join(other)}'; write --ros-args before "
                'them, for example: --ros-args --params-file config/perception.yaml'
            )
        rclpy.init(args=argv)
        node = make()
    # rclpy reports a parameter file that is missing or not YAML as an RCLError.
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
        finally:  # now: its destructor may come after the context's end, and complain
            executor.shutdown()
    finally:
        node.close()
        node.destroy_node()


def one_line(error: object) -> str:
    """Write an error without line breaks and without the source files of ROS itself."""
    return re.sub(r', at /[^ ,]+\.(c|cpp):\d+', '', ' '.join(str(error).split()))
