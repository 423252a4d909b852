"""
The commands of the package: python -m sd_perception_ros <command>.

The module of a command is imported when the command runs, and reads the arguments before it
imports torch. So help and errors of arguments are fast, and a missing ROS or torch stops only the
commands that need it.
"""

from __future__ import annotations

import difflib
import importlib
import os
import select
import signal
import sys
import types
from typing import NamedTuple

import sd_perception_ros
from sd_perception_ros.paths import printable


class Command(NamedTuple):
    """
    A command.

    :ivar module: module with `main(argv) -> int`.
    :ivar summary: one line for the usage.
    :ivar serves: runs until a signal, and then exits with 0.
    :ivar is_node: takes ROS arguments.
    :ivar resumes: continues an interrupted run when it is started again.
    """

    module: str
    summary: str
    serves: bool = False
    is_node: bool = False
    resumes: bool = False


COMMANDS = {
    'up': Command('cli.up', 'start the camera and perception nodes', serves=True),
    'camera': Command(
        'ros.replay.camera_node', 'start the camera node alone', serves=True, is_node=True
    ),
    'perception': Command(
        'ros.perception_node', 'start the perception node alone', serves=True, is_node=True
    ),
    'demo': Command(
        'cli.demo.main', 'run both nodes on real images and write demo_output/', serves=True
    ),
    'predict': Command(
        'cli.predict.main', 'see depth, normals, people, ... of your own pictures', resumes=True
    ),
    'synthesize': Command(
        'cli.synthesize', 'render rooms with exact depth and normals', resumes=True
    ),
    'bake-bodies': Command('cli.bake_bodies', 'pose and clothe people for the rooms'),
    'pretrain': Command('cli.pretrain', 'train the autoencoder and the denoiser', resumes=True),
    'train': Command('cli.train', 'fine-tune tasks in one deterministic step', resumes=True),
    'data': Command('cli.data', 'show training data, or write it into shards'),
    'evaluate': Command('cli.evaluate', 'measure a checkpoint against ground truth'),
    'checkpoints': Command(
        'cli.checkpoints', 'list, download and check published weights', resumes=True
    ),
    'export': Command('cli.export', 'write a checkpoint as ONNX for other runtimes'),
}

# Packages whose name for pip differs from that of their import.
PIP_NAMES = {
    'cv2': 'opencv-python-headless',
    'PIL': 'pillow',
    'py_sod_metrics': 'pysodmetrics',
    'skimage': 'scikit-image',
    'yaml': 'pyyaml',
}

# Lists in requirements/ other than core, and the packages that we import from them.
LISTS = {
    'train': (
        'accelerate',
        'embreex',
        'h5py',
        'peft',
        'psutil',
        'rosbags',
        'tensorboard',
        'webdataset',
    ),
    'runtimes': ('onnx', 'onnxruntime', 'openvino'),
    'predict': ('av',),
}


def main(argv: list[str] | None = None) -> int:
    """
    Run a command, and return its exit code.

    If the reader of stdout has ended, as in `| head`, it is 141 (128 + SIGPIPE).
    """
    try:
        try:
            return _run(sys.argv[1:] if argv is None else argv)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        if not _stdout_is_broken():
            raise
        # The interpreter flushes stdout at exit, and would print an error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE


def _stdout_is_broken() -> bool:
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)  # 0: poll for errors only
    return bool(poll.poll(0))


def _run(argv: list[str]) -> int:
    if not argv or argv[0] in ('-h', '--help', 'help'):
        print(usage())
        return 0 if argv else 2
    if argv[0] == '--version':
        print(f'sd_perception_ros {sd_perception_ros.__version__}')
        return 0
    name, *rest = argv
    if name not in COMMANDS:
        similar = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = (
            f"did you mean '{similar[0]}'?" if similar else f'choose one of: {", ".join(COMMANDS)}'
        )
        print(f"error: unknown command '{name}'; {hint}", file=sys.stderr)
        return 2
    command = COMMANDS[name]
    if command.is_node and rest[:1] in (['-h'], ['--help'], ['--version']):
        if rest[0] == '--version':
            return _run(rest)
        from sd_perception_ros.cli.node_help import node_help

        print(node_help(name))
        return 0
    return _start(command, rest)


def _start(command: Command, arguments: list[str]) -> int:
    if command.serves:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _leave)  # until main() sets its own handlers
        # `up` starts this process with both signals blocked, until the handlers are set.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    else:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        code: int = importlib.import_module(f'sd_perception_ros.{command.module}').main(arguments)
    except BrokenPipeError:
        raise  # handled by `main`
    except (OSError, ValueError, FloatingPointError) as error:
        print(f'error: {format_error(error)}', file=sys.stderr)
        return 1
    except ImportError as error:
        package = (error.name or '').partition('.')[0]
        if package in ('', 'sd_perception_ros'):
            raise  # an error of this package
        print(f'error: {how_to_get(package)} ({error})', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        hint = '; run the same command again to resume' if command.resumes else ''
        print(f'stopped{hint}', file=sys.stderr)
        return 128 + signal.SIGINT  # not 0: scripts must notice an incomplete run
    return code


def format_error(error: Exception) -> str:
    """Format an error in one line, with a hint for errors of the system."""
    if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
        return (
            f"'{printable(str(error.filename))}' cannot be used ({error.strerror}); name another "
            'file or folder, or change this one'
        )
    return printable(' '.join(str(error).split()))


def how_to_get(package: str) -> str:
    """Return how to install a package that cannot be imported."""
    if package == 'rclpy' or package.endswith(('_msgs', '_srvs', '_interfaces')):
        return (
            f"ROS 2 was not found, '{package}' cannot be imported: source its setup.bash in this "
            'shell, or use the virtual environment of `make demo`'
        )
    return (
        f"the Python package '{package}' cannot be imported: python -m pip install "
        f'{PIP_NAMES.get(package, package)}; requirements/{_list_of(package)}.txt has tested '
        'versions'
    )


def _list_of(package: str) -> str:
    """Return the name of the list in requirements/ that has a package."""
    return next((name for name, packages in LISTS.items() if package in packages), 'core')


def perception_node() -> int:
    """Run the perception node; the executable of `ros2 run`."""
    return leave(main(['perception', *sys.argv[1:]]))


def camera_node() -> int:
    """Run the camera node; the executable of `ros2 run`."""
    return leave(main(['camera', *sys.argv[1:]]))


def leave(code: int) -> int:
    """
    End the process of a node at once, after its threads ended and its context was shut down.

    The interpreter would spend more than a second of CPU time on torch and the middleware, whose
    libraries have crashed there.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def usage() -> str:
    """Return the table of commands."""
    lines = [f'  {name:12}{command.summary}' for name, command in COMMANDS.items()]
    return '\n'.join(
        [
            'usage: python -m sd_perception_ros <command> [options]',
            '',
            *lines,
            '',
            'example: python -m sd_perception_ros up --params-file config/perception.yaml',
            'Use <command> --help for its options, and --version for the version.',
        ]
    )


def _leave(number: int, frame: types.FrameType | None) -> None:
    # Nothing is open yet, and an exception inside an import would print a traceback.
    os._exit(0)


if __name__ == '__main__':
    is_node = len(sys.argv) > 1 and sys.argv[1] in COMMANDS and COMMANDS[sys.argv[1]].is_node
    sys.exit(leave(main()) if is_node else main())
