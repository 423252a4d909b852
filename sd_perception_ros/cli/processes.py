"""Commands of this package as child processes, which end with the block that started them."""

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
# A node answers SIGINT within one inference; a stuck one is killed.
_PATIENCE_S = ((signal.SIGINT, 10.0), (signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0))
_LAST_LINES = 10


class Processes:
    """
    Child processes, by the names of their commands.

    :param environ: environment of the children, such as `node_environment` makes.
    :param logs: folder that gets a file NAME.log for each; None: they write where we do.
    """

    def __init__(self, environ: Mapping[str, str], logs: Path | None = None) -> None:
        self._environ, self._logs = dict(environ), logs
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Processes:
        """Return this."""
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
        """Start a command and return its process id; a second start adds to its log."""
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
        Return a child that has ended by itself: its name and its exit code.

        :param names: of the children to look after; none: all.
        :returns: code 128 + n if signal n ended it; None while all run.
        """
        for name in names or self._children:
            code = self._children[name].poll()
            if code is not None:
                return name, 128 - code if code < 0 else code
        return None

    def check(self) -> None:
        """
        Check that every child runs.

        :raises ChildProcessError: one has ended by itself; the text has the end of its log.
        """
        if ended := self.ended():
            name, code = ended
            raise ChildProcessError(
                f'the {name} node ended with exit code {code}{self.last_lines(name)}'
            )

    def last_lines(self, *names: str) -> str:
        """Quote the ends of log files, those of all children unless named; ready to append."""
        quotes = []
        for name in names or self._children:
            lines = self._log(name).read_text(errors='replace').splitlines()[-_LAST_LINES:]
            quotes.append(f'\n{self._log(name)} ends with:\n' + '\n'.join(f'  {x}' for x in lines))
        return ''.join(quotes)

    def stop(self, *names: str) -> None:
        """End children, all unless named, more firmly each time, and wait until they are gone."""
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
    # JSON is YAML: so no path or word is taken for a number or a list.
    pairs = [f'{name}:={json.dumps(value)}' for name, value in parameters.items()]
    return ['--ros-args', *(word for pair in pairs for word in ('-p', pair))]


def node_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Add what nodes need to an environment: our package, ROS's files, a transport that works."""
    made = dict(environ)
    made['PYTHONPATH'] = os.pathsep.join(filter(None, [str(ROOT), environ.get('PYTHONPATH')]))
    made.setdefault('AMENT_PREFIX_PATH', sys.prefix)  # where the ROS wheels lie
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
    # A child inherits this mask and opens it when its handlers stand, so that a signal in its
    # first milliseconds ends it quietly too.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
