"""
The commands of the package: python -m sd_perception_ros <command>.

A command's module is imported when it runs, and reads its arguments before torch is imported:
help and mistakes are answered at once, and a missing ROS or torch only stops what needs it.
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


class Command(NamedTuple):
    """
    A command.

    :ivar module: has `main(argv) -> int`.
    :ivar about: what it does.
    :ivar serves: a signal is how it ends, and no failure, also while it is imported.
    :ivar is_node: it takes ROS arguments.
    :ivar resumes: the same command, given again, goes on where it was stopped.
    """

    module: str
    about: str
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
        'cli.demo.main', 'run both nodes on real pictures and write demo_output/', serves=True
    ),
    'synthesize': Command(
        'cli.synthesize', 'render rooms with exact depth and normals', resumes=True
    ),
    'bake-bodies': Command('cli.bake_bodies', 'pose and clothe people for the rooms'),
    'pretrain': Command('cli.pretrain', 'train the autoencoder and the denoiser', resumes=True),
    'train': Command('cli.train', 'fine-tune tasks in one deterministic step', resumes=True),
    'data': Command('cli.data', 'look at data before a training, or write it into shards'),
    'evaluate': Command('cli.evaluate', 'measure a checkpoint against ground truth'),
    'checkpoints': Command(
        'cli.checkpoints', 'list, download and check published weights', resumes=True
    ),
    'export': Command('cli.export', 'write a checkpoint as ONNX for other runtimes'),
}

# Packages that pip knows by another name than Python.
PIP_NAMES = {
    'cv2': 'opencv-python-headless',
    'PIL': 'pillow',
    'py_sod_metrics': 'pysodmetrics',
    'skimage': 'scikit-image',
    'yaml': 'pyyaml',
}

# Lists in requirements/ beside core, and what is imported of them.
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
}


def main(argv: list[str] | None = None) -> int:
    """
    Run the command that the first argument names; return its exit code.

    Where nobody reads what is printed any more, as in `| head`, that is 141, as of other programs.
    """
    try:
        try:
            return _run(sys.argv[1:] if argv is None else argv)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        if not _stdout_is_broken():
            raise
        # The interpreter flushes once more at its end, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE


def _stdout_is_broken() -> bool:
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)  # reports errors alone: a pipe without a reader
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
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f'choose one of: {", ".join(COMMANDS)}'
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
        # `up` starts us with both blocked: none may come before the line above.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    else:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        code: int = importlib.import_module(f'sd_perception_ros.{command.module}').main(arguments)
    except BrokenPipeError:
        raise  # an OSError, but none of a file
    except (OSError, ValueError, FloatingPointError) as error:
        # What the package raises about files and options is written for people.
        print(f'error: {format_error(error)}', file=sys.stderr)
        return 1
    except ImportError as error:
        package = (error.name or '').partition('.')[0]
        if package in ('', 'sd_perception_ros'):
            raise  # ours, so a fault in here
        print(f'error: {how_to_get(package)} ({error})', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        goes_on = '; the same command goes on from what was saved' if command.resumes else ''
        print(f'stopped{goes_on}', file=sys.stderr)
        return 128 + signal.SIGINT  # not 0: a script must not take half a training for a whole
    return code


def format_error(error: Exception) -> str:
    """Write an error in one line; those of the system get a hint what to do."""
    if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
        return (
            f"'{error.filename}' cannot be used ({error.strerror}); name another file or folder, "
            'or change this one'
        )
    return ' '.join(str(error).split())


def how_to_get(package: str) -> str:
    """Return how to install a package that cannot be imported."""
    if package == 'rclpy' or package.endswith(('_msgs', '_srvs', '_interfaces')):
        return (
            f"ROS 2 is not here, '{package}' cannot be imported: source its setup.bash in this "
            'shell, or use the virtual environment that make demo makes'
        )
    return (
        f"the Python package '{package}' cannot be imported: python -m pip install "
        f'{PIP_NAMES.get(package, package)}; requirements/{_list_of(package)}.txt has the tested '
        'versions'
    )


def _list_of(package: str) -> str:
    """Name the list in requirements/ that has a package."""
    return next((name for name, packages in LISTS.items() if package in packages), 'core')


def perception_node() -> int:
    """Run the perception node; the executable of `ros2 run`."""
    return main(['perception', *sys.argv[1:]])


def camera_node() -> int:
    """Run the camera node; the executable of `ros2 run`."""
    return main(['camera', *sys.argv[1:]])


def usage() -> str:
    """Return the table of commands."""
    lines = [f'  {name:12}{command.about}' for name, command in COMMANDS.items()]
    return '\n'.join(
        [
            'usage: python -m sd_perception_ros <command> [options]',
            '',
            *lines,
            '',
            'example: python -m sd_perception_ros up --params-file config/perception.yaml',
            'Each command explains itself with --help; --version prints the version.',
        ]
    )


def _leave(number: int, frame: types.FrameType | None) -> None:
    # Nothing is open yet, and an exception inside an import would print a traceback.
    os._exit(0)


if __name__ == '__main__':
    sys.exit(main())
