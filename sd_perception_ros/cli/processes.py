"""Commands of this package as child processes that end with their `with` block."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import json
import os
from pathlib import Path
import signal
import subprocess
import sys
import time
from types import TracebackType

from sd_perception_ros.ros.node.transport import transport_environment, tuning_environment

ROOT = Path(__file__).resolve().parents[2]
SIGNALS = (signal.SIGINT, signal.SIGTERM)
POLL_S = 0.05
# A node reacts to SIGINT within one inference; a stuck one is killed.
_PATIENCE_S = ((signal.SIGINT, 10.0), (signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0))
_LAST_LINES = 10


class Processes:
    """
    Child processes, by the names of their commands.

    :param environ: environment of the children, such as `node_environment` makes.
    :param logs: folder for a file NAME.log of each child; None: output of this process.
    """

    def __init__(self, environ: Mapping[str, str], logs: Path | None = None) -> None:
        self._environ, self._logs = dict(environ), logs
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Processes:
        """Return self."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End every child."""
        self.stop()

    def start(self, name: str, arguments: Sequence[str] = ()) -> int:
        """Start a command and return its process id; a second start appends to the log."""
        command = [sys.executable, '-m', 'sd_perception_ros', name, *arguments]
        with contextlib.ExitStack() as stack:
            stack.enter_context(_blocked_signals())
            output = stack.enter_context(self._log(name).open('ab')) if self._logs else None
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL if output else None,
                stdout=output,
                stderr=output,
                env=self._environ,
            )
        self._children[name] = child
        return child.pid

    def ended(self, *names: str) -> tuple[str, int] | None:
        """
        Return name and exit code of a child that has ended by itself.

        :param names: names of the children to check; none: all.
        :returns: exit code, 128 + n after signal n; None while all run.
        """
        for name in names or self._children:
            code = self._children[name].poll()
            if code is not None:
                return name, 128 - code if code < 0 else code
        return None

    def check(self) -> None:
        """
        Check that every child runs.

        :raises ChildProcessError: one has ended by itself; the message has the end of its log.
        """
        if ended := self.ended():
            name, code = ended
            raise ChildProcessError(
                f'the {name} node ended with exit code {code}{self.last_lines(name)}'
            )

    def last_lines(self, *names: str) -> str:
        """Return the last lines of the logs of these children (default: all), for a message."""
        quotes = []
        for name in names or self._children:
            lines = self._log(name).read_text(errors='replace').splitlines()[-_LAST_LINES:]
            quotes.append(f'\n{self._log(name)} ends with:\n' + '\n'.join(f'  {x}' for x in lines))
        return ''.join(quotes)

    def stop(self, *names: str) -> None:
        """End these children (default: all), with stronger signals each time, and wait."""
        children = [self._children[name] for name in names or self._children]
        for number, patience_s in _PATIENCE_S:
            for child in children:
                if child.poll() is None:
                    child.send_signal(number)
            deadline = time.monotonic() + patience_s
            while any(child.poll() is None for child in children) and time.monotonic() < deadline:
                time.sleep(POLL_S)
        for name in names or list(self._children):
            del self._children[name]

    def _log(self, name: str) -> Path:
        assert self._logs is not None
        return self._logs / f'{name}.log'


def parameter_arguments(parameters: Mapping[str, object]) -> list[str]:
    """Write parameters as the ROS arguments of a node."""
    # JSON is YAML: paths and words are not read as numbers or lists.
    pairs = [f'{name}:={json.dumps(value)}' for name, value in parameters.items()]
    return ['--ros-args', *(word for pair in pairs for word in ('-p', pair))]


def node_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Add variables for nodes to an environment: our package, files of ROS, transport."""
    made = dict(environ)
    made['PYTHONPATH'] = os.pathsep.join(filter(None, [str(ROOT), environ.get('PYTHONPATH')]))
    made.setdefault('AMENT_PREFIX_PATH', sys.prefix)  # where ROS wheels are installed
    profile = find_config('fastdds.xml') or Path('fastdds.xml')
    made.update(transport_environment(made, profile) | tuning_environment(made))
    return made


def find_config(name: str) -> Path | None:
    """Find a file of config/, in a checkout or below an installed prefix."""
    prefixes = filter(None, os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep))
    shares = [Path(prefix) / 'share' / 'sd_perception_ros' for prefix in prefixes]
    for folder in (ROOT, *shares):
        if (folder / 'config' / name).is_file():
            return folder / 'config' / name
    return None


@contextlib.contextmanager
def _blocked_signals() -> Iterator[None]:
    # A child inherits this mask and unblocks it once its handlers are set, so that a signal in its
    # first milliseconds ends it without a traceback, too.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
