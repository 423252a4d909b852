"""
A process that has imported what nodes need, and forks one for each command that a test starts.

`python -m sd_perception_ros` spends seconds on importing torch, diffusers and ROS; a fork starts
behind that. The server only imports and runs nothing, so a child is as a new process is. The child
runs the package as `python -m` does, to the end of the interpreter.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import importlib
import json
import os
from pathlib import Path
import runpy
import select
import selectors
import signal
import socket
import subprocess
import sys
import threading
from typing import Any, BinaryIO, NamedTuple

# What both nodes import, in their order, and then what they import while they load a model.
PRELOADED = (
    'sd_perception_ros.ros.perception_node',
    'sd_perception_ros.ros.replay.camera_node',
    'sd_perception_ros.cli.demo.main',
    'diffusers.models.autoencoders.autoencoder_kl',
    'diffusers.models.unets.unet_2d_condition',
)
SIGNALS = (signal.SIGINT, signal.SIGTERM)
_MOST_BYTES = 2**17


class Request(NamedTuple):
    """
    What a child shall run.

    :ivar code: Python code instead of the package's command line; empty: the command line.
    """

    arguments: list[str]
    code: str
    environment: dict[str, str]
    folder: str


# ---- In the process of pytest -------------------------------------------------------------------


class ForkServer:
    """
    The server as a child process; it ends when this process does, however that ends.

    :param environment: what is read when libraries are loaded, such as OMP_WAIT_POLICY, must be
        the same for all children.
    """

    def __init__(self, environment: dict[str, str]) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # no terminal: children buffer as for a file
                env=environment,
                pass_fds=[theirs.fileno()],
            )
        atexit.register(self.close)

    def start(
        self,
        arguments: list[str],
        environment: dict[str, str],
        folder: Path,
        log: BinaryIO,
        code: str = '',
    ) -> Child:
        """Start `python -m sd_perception_ros <arguments>`, with all its output in `log`."""
        request = json.dumps(Request(arguments, code, environment, str(folder))).encode()
        ours, theirs = os.pipe()
        try:
            socket.send_fds(self._control, [request], [log.fileno(), theirs])
        finally:
            os.close(theirs)
        return Child(ours, arguments)

    def close(self) -> None:
        """End the server; children that still run are left alone."""
        self._control.close()
        self._process.wait()


class Child:
    """A forked process, with the part of `subprocess.Popen` that tests use."""

    def __init__(self, status: int, arguments: list[str]) -> None:
        self._status, self._arguments = os.fdopen(status, 'rb', buffering=0), arguments
        self._lock = threading.Lock()
        self.returncode: int | None = None
        self.pid = self._read()
        # A number may become another process's when this one has ended, a descriptor never.
        self._descriptor = os.pidfd_open(self.pid)

    def poll(self) -> int | None:
        """Return the exit code, -n for signal n; None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0.0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end; raises `subprocess.TimeoutExpired`."""
        with self._lock:
            if self.returncode is None:
                if not select.select([self._status], [], [], timeout)[0]:
                    raise subprocess.TimeoutExpired(self._arguments, timeout or 0.0)
                self.returncode = self._read()
                self._status.close()
                os.close(self._descriptor)
            return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        with self._lock, contextlib.suppress(ProcessLookupError):
            if self.returncode is None:
                signal.pidfd_send_signal(self._descriptor, number)

    def kill(self) -> None:
        """End the process without asking."""
        self.send_signal(signal.SIGKILL)

    def _read(self) -> int:
        line = self._status.readline()
        if not line:
            raise RuntimeError('the forkserver of the tests ended; its traceback stands above')
        return int(line)


# ---- In the server and its children -------------------------------------------------------------


def serve(control: socket.socket) -> Request | None:
    """Fork for each request and report its end; return in each child, and when pytest ends."""
    # Descriptor of a child: its process number, and the pipe for its exit code.
    running: dict[int, tuple[int, int]] = {}
    tracers = _tracers()
    with selectors.DefaultSelector() as selector:
        selector.register(control, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fd != control.fileno():
                    selector.unregister(key.fd)
                    _report(key.fd, *running.pop(key.fd))
                    continue
                data, descriptors, *_ = socket.recv_fds(control, _MOST_BYTES, 2)
                if not data:
                    return None
                log, status = descriptors
                signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
                number = _fork(tracers)
                if number == 0:
                    for descriptor in running:
                        os.close(descriptor)
                    for _, pipe in (*running.values(), (0, status)):
                        os.close(pipe)
                    control.close()
                    os.dup2(log, 1)
                    os.dup2(log, 2)
                    os.close(log)
                    return Request(*json.loads(data))
                signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
                os.close(log)
                descriptor = os.pidfd_open(number)
                running[descriptor] = number, status
                selector.register(descriptor, selectors.EVENT_READ)
                _write(status, number)


def _tracers() -> list[ctypes.CDLL]:
    """Find LTTng, which rclpy loads and which starts threads when it is loaded."""
    lines = Path('/proc/self/maps').read_text().splitlines()
    files = {line.split()[-1] for line in lines if '/liblttng-ust' in line}
    libraries = [ctypes.CDLL(file) for file in sorted(files)]
    return [library for library in libraries if _hook(library, 'before_fork')]


def _hook(tracer: ctypes.CDLL, name: str) -> Any:
    # The names of LTTng 2.13 and later, and of earlier ones.
    return getattr(tracer, f'lttng_ust_{name}', None) or getattr(tracer, f'ust_{name}', None)


def _fork(tracers: list[ctypes.CDLL]) -> int:
    """Fork as LTTng wants it: else its exit handler cancels threads that the child has not."""
    masks = [ctypes.create_string_buffer(1024) for _ in tracers]
    for tracer, mask in zip(tracers, masks, strict=True):
        _hook(tracer, 'before_fork')(mask)
    number = os.fork()
    after = 'after_fork_parent' if number else 'after_fork_child'
    for tracer, mask in reversed([*zip(tracers, masks, strict=True)]):
        _hook(tracer, after)(mask)
    return number


def _report(descriptor: int, number: int, status: int) -> None:
    _, ended = os.waitpid(number, 0)
    _write(status, os.waitstatus_to_exitcode(ended))
    os.close(descriptor)
    os.close(status)


def _write(status: int, value: int) -> None:
    with contextlib.suppress(BrokenPipeError):  # the test has forgotten the child
        os.write(status, f'{value}\n'.encode())


def run(request: Request) -> None:
    """Be `python -m sd_perception_ros <arguments>`, or `python -c <code> <arguments>`."""
    os.environ.clear()
    os.environ.update(request.environment)
    os.chdir(request.folder)
    sys.path[0] = request.folder  # as with -m; it was the folder of this file
    sys.argv = ['-c', *request.arguments]
    # Blocked until the command has its handlers and opens them, as `up` starts nodes.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if request.code:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        exec(request.code, {'__name__': '__main__'})
        return
    runpy.run_module('sd_perception_ros', run_name='__main__', alter_sys=True)


def main() -> None:
    """Import, serve, and in a child run what was asked for."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for pytest, whose end is ours
    for module in PRELOADED:
        importlib.import_module(module)
    assert threading.active_count() == 1, 'an import started a thread, which a fork would lose'
    gc.freeze()  # else each child walks through all that was imported as it ends: 2 s
    request = serve(socket.socket(fileno=int(sys.argv[1])))
    if request is not None:
        run(request)


if __name__ == '__main__':
    main()
