"""The demo's nodes as child processes, each with its log file."""

from __future__ import annotations

from collections.abc import Mapping
import json
from pathlib import Path
import subprocess
import sys
from types import TracebackType

from sd_perception_ros.cli.up import stop_all

_LAST_LINES = 10


class DemoError(Exception):
    """The demo cannot go on; the text says why, for people."""


class Nodes:
    """
    Child processes that end with the block that uses this.

    :param folder: gets one log file for each node, `<name>.log`.
    :param environ: environment of the nodes.
    """

    def __init__(self, folder: Path, environ: Mapping[str, str]) -> None:
        self._folder = folder
        self._environ = dict(environ)
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Nodes:
        """Return this."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End every node."""
        self.stop()

    def start(self, name: str, parameters: Mapping[str, object]) -> None:
        """
        Start a command of this package as a child process.

        :param name: the command; a second start of one name adds to its log.
        :param parameters: ROS parameters of the node.
        """
        # JSON is YAML: so no path or word is taken for a number or a list.
        pairs = [f'{key}:={json.dumps(value)}' for key, value in parameters.items()]
        arguments = [part for pair in pairs for part in ('-p', pair)]
        command = [sys.executable, '-m', 'sd_perception_ros', name, '--ros-args', *arguments]
        with self._log(name).open('ab') as log:
            self._children[name] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._environ
            )

    def check(self) -> None:
        """
        Look after the nodes.

        :raises DemoError: a node has ended by itself.
        """
        for name, child in self._children.items():
            code = child.poll()
            if code is not None:
                raise DemoError(
                    f'the {name} node ended with exit code {code}{self.last_words(name)}'
                )

    def last_words(self, *names: str) -> str:
        """Quote the ends of log files, those of all nodes unless named; ready to append."""
        quotes = []
        for name in names or self._children:
            lines = self._log(name).read_text(errors='replace').splitlines()[-_LAST_LINES:]
            quotes.append(f'\n{self._log(name)} ends with:\n' + '\n'.join(f'  {x}' for x in lines))
        return ''.join(quotes)

    def stop(self, *names: str) -> None:
        """End nodes, all unless named, and wait until they are gone."""
        stop_all([self._children[name] for name in names or self._children])
        for name in names or list(self._children):
            del self._children[name]

    def _log(self, name: str) -> Path:
        return self._folder / f'{name}.log'
