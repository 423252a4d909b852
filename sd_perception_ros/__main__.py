"""
The commands of the package: python -m sd_perception_ros <command>.

Modules are imported when their command runs, so that a missing ROS or torch only stops what
needs it.
"""

from __future__ import annotations

import difflib
import importlib
import os
import signal
import sys
import types

# Command: module with main(argv) -> int, what it does, and whether it ends by signals as a
# matter of course (then a signal is no failure, also during the seconds of import).
COMMANDS = {
    'up': ('cli.up', 'start the camera and perception nodes from one parameter file', True),
    'camera': ('ros.replay.camera_node', 'start the camera node alone', True),
    'perception': ('ros.perception_node', 'start the perception node alone', True),
    'demo': ('cli.demo.main', 'run both nodes on real pictures and write demo_output/', True),
    'synthesize': ('cli.synthesize', 'render rooms with exact depth and normals', False),
    'bake-bodies': ('cli.bake_bodies', 'pose and clothe people for the rooms', False),
    'pretrain': ('cli.pretrain', 'train the autoencoder and the denoiser', False),
    'train': ('cli.train', 'fine-tune tasks in one deterministic step', False),
    'data': ('cli.data', 'look at data before a training, or write it into shards', False),
    'evaluate': ('cli.evaluate', 'measure a checkpoint against ground truth', False),
    'export': ('cli.export', 'write a checkpoint as ONNX for other runtimes', False),
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
    """Run the command that the first argument names; return its exit code."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ('-h', '--help', 'help'):
        print(usage())
        return 0 if argv else 2
    name, *rest = argv
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f'choose one of: {", ".join(COMMANDS)}'
        print(f"error: unknown command '{name}'; {hint}", file=sys.stderr)
        return 2
    module, _, serves = COMMANDS[name]
    if serves:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _leave)  # until main() sets its own handlers
        # `up` starts us with both blocked: none may come before the line above.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    else:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        code: int = importlib.import_module(f'sd_perception_ros.{module}').main(rest)
    except (OSError, ValueError, FloatingPointError) as error:
        # What the package raises about files and options is written for people.
        print(f'error: {told(error)}', file=sys.stderr)
        return 1
    except ImportError as error:
        package = (error.name or '').partition('.')[0]
        if package in ('', 'sd_perception_ros'):
            raise  # ours, so a fault in here
        print(f'error: {missing(package)} ({error})', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('stopped; the same command goes on from what was saved', file=sys.stderr)
        return 128 + signal.SIGINT  # not 0: a script must not take half a training for a whole
    return code


def told(error: Exception) -> str:
    """Write an error in one line; the system's own say neither what was wanted nor what to do."""
    if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
        return (
            f"'{error.filename}' cannot be used ({error.strerror}); name another file or folder, "
            'or change this one'
        )
    return ' '.join(str(error).split())


def missing(package: str) -> str:
    """Say how to get a package that cannot be imported."""
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
    lines = [f'  {name:12}{about}' for name, (_, about, _) in COMMANDS.items()]
    return '\n'.join(
        [
            'usage: python -m sd_perception_ros <command> [options]',
            '',
            *lines,
            '',
            'example: python -m sd_perception_ros up --params-file config/perception.yaml',
            'Commands explain themselves with --help; the nodes take ROS arguments (--ros-args).',
        ]
    )


def _leave(number: int, frame: types.FrameType | None) -> None:
    # Nothing is open yet, and an exception inside an import would print a traceback.
    os._exit(0)


if __name__ == '__main__':
    sys.exit(main())
