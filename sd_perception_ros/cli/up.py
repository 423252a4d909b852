"""Start the camera and the perception node on a machine without `ros2 launch`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
import contextlib
import os
from pathlib import Path
import signal
import subprocess
import sys
import time
import types

from sd_perception_ros.ros.node.transport import transport_environment, tuning_environment

ROOT = Path(__file__).resolve().parents[2]
NODES = ('camera', 'perception')
SIGNALS = (signal.SIGINT, signal.SIGTERM)
_POLL_S = 0.05
# A node answers SIGINT within one inference; a stuck one is killed.
_PATIENCE_S = ((signal.SIGINT, 10.0), (signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0))
EXAMPLE = """example:
  python -m sd_perception_ros up --params-file config/perception.yaml
  python -m sd_perception_ros up -p camera:source:=skimage -p perception:device:=cpu
"""


def main(argv: list[str] | None = None) -> int:
    """Run both nodes until one ends or a signal comes; return 0 or the code of the failure."""
    options = _parser().parse_args(argv)
    params = options.params_file or find_config('perception.yaml')
    if params is None or not params.is_file():
        print(
            f'error: the parameter file {params or "perception.yaml"} does not exist; '
            'give one with --params-file',
            file=sys.stderr,
        )
        return 2
    environ = node_environment(os.environ)
    if options.domain is not None:
        environ['ROS_DOMAIN_ID'] = str(options.domain)
    nodes = [name for name in NODES if name not in options.without]
    commands = [(name, *ros_arguments(name, params, options)) for name in nodes]
    return supervise(commands, environ)


def supervise(commands: Sequence[Sequence[str]], environ: Mapping[str, str]) -> int:
    """
    Run commands of this package as child processes until the first of them ends.

    :param commands: each a command and its arguments, for example ('camera', '--ros-args').
    :returns: 0 after SIGINT or SIGTERM, which are passed on; else the exit code of the first
        child that ended (128 + n if signal n killed it), after the others were stopped.
    """
    stop: list[int] = []

    def note(number: int, frame: types.FrameType | None) -> None:
        stop.append(number)

    children: list[subprocess.Popen[bytes]] = []
    for number in SIGNALS:
        signal.signal(number, note)
    try:
        for command in commands:
            children.append(start(command, environ))
        while not stop and all(child.poll() is None for child in children):
            time.sleep(_POLL_S)
        ended = [child.returncode for child in children if child.returncode is not None]
    finally:
        stop_all(children)
    if stop or not ended:
        return 0
    code: int = ended[0]
    return 128 - code if code < 0 else code


def start(command: Sequence[str], environ: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start one command of this package as a child process."""
    with _blocked_signals():
        return subprocess.Popen(
            [sys.executable, '-m', 'sd_perception_ros', *command], env=dict(environ)
        )


def stop_all(children: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ask every child to end, more firmly each time, and wait for all of them."""
    for number, patience_s in _PATIENCE_S:
        for child in children:
            if child.poll() is None:
                child.send_signal(number)
        deadline = time.monotonic() + patience_s
        while any(child.poll() is None for child in children) and time.monotonic() < deadline:
            time.sleep(_POLL_S)


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


def ros_arguments(node: str, params: Path, options: argparse.Namespace) -> list[str]:
    """Write the options as the ROS arguments of one node."""
    arguments = ['--ros-args', '--params-file', str(params)]
    if options.namespace:
        arguments += ['-r', f'__ns:=/{options.namespace.strip("/")}']
    for rule in options.remap:
        arguments += ['-r', rule]
    for value in options.param:
        # ROS would read `camera:` as the node of the root namespace only.
        owner, _, rest = value.partition(':') if value.split(':')[0] in NODES else ('', '', value)
        if owner in ('', node):
            arguments += ['-p', rest]
    if options.log_level:
        arguments += ['--log-level', options.log_level]
    return arguments


@contextlib.contextmanager
def _blocked_signals() -> Iterator[None]:
    # A child inherits this mask and opens it when its handlers stand, so that a signal in its
    # first milliseconds ends it quietly too.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='python -m sd_perception_ros up',
        description='Start the camera and the perception node from one parameter file.',
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add('--params-file', type=Path, help='ROS parameter file; without it the one of config/')
    add('--namespace', default='', help='namespace of both nodes, for example front')
    add(
        '-r',
        '--remap',
        action='append',
        default=[],
        metavar='FROM:=TO',
        help='remap a name in both nodes; repeat as needed',
    )
    add(
        '-p',
        '--param',
        action='append',
        default=[],
        metavar='[NODE:]NAME:=VALUE',
        help='set a parameter over the file, of one node or of both; repeat as needed',
    )
    add('--without', action='append', default=[], choices=NODES, help='leave out one node')
    add('--domain', type=int, help='ROS_DOMAIN_ID of the nodes')
    add('--log-level', default='', help='for example debug')
    return parser


if __name__ == '__main__':
    sys.exit(main())
