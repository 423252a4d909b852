"""Start the camera and the perception node on a machine without `ros2 launch`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
import os
from pathlib import Path
import signal
import sys
import time

from sd_perception_ros.cli.arguments import command_parser
from sd_perception_ros.cli.processes import (
    find_config,
    node_environment,
    POLL_S,
    Processes,
    SIGNALS,
)
from sd_perception_ros.paths import printable, user_path

NODES = ('camera', 'perception')
EXAMPLE = """example:
  python -m sd_perception_ros up --params-file config/perception.yaml
  python -m sd_perception_ros up -p camera:source:=skimage -p perception:device:=cpu
"""


def main(argv: list[str] | None = None) -> int:
    """Run both nodes until one ends or a signal arrives; return 0 or the code of a failure."""
    options = _parser().parse_args(argv)
    for argument in (options.params_file or '', *options.param, *options.remap, options.namespace):
        if printable(argument) != str(argument):
            print(
                f"error: '{printable(argument)}' is not UTF-8, and ROS takes nothing else; rename "
                'the file or folder, or give a symbolic link with another name',
                file=sys.stderr,
            )
            return 2
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
    commands = {name: ros_arguments(name, params, options) for name in nodes}
    return supervise(commands, environ)


def supervise(commands: Mapping[str, Sequence[str]], environ: Mapping[str, str]) -> int:
    """
    Run commands of this package as child processes until the first of them ends.

    :param commands: name of a command to its arguments.
    :returns: 0 after SIGINT or SIGTERM, which are passed on; else the exit code of the first
        child that ended (128 + n if signal n killed it), after the others were stopped.
    """
    signals: list[int] = []
    for number in SIGNALS:
        signal.signal(number, lambda number, frame: signals.append(number))
    with Processes(environ) as processes:
        for name, arguments in commands.items():
            processes.start(name, arguments)
        while not signals and processes.ended() is None:
            time.sleep(POLL_S)
        ended = processes.ended()
    return ended[1] if ended and not signals else 0


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


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(
        'up', 'Start the camera and the perception node from one parameter file.', EXAMPLE
    )
    add = parser.add_argument
    add(
        '--params-file', type=user_path, help='ROS parameter file; default: config/perception.yaml'
    )
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
        help='set a parameter of one node or of both, over the file; repeat as needed',
    )
    add('--without', action='append', default=[], choices=NODES, help='leave out one node')
    add('--domain', type=int, help='ROS_DOMAIN_ID of the nodes')
    add('--log-level', default='', help='for example debug')
    return parser


if __name__ == '__main__':
    sys.exit(main())
