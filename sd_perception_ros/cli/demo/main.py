"""Run both nodes on rendered rooms and photographs; write images, a film and a table."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
import contextlib
import os
from pathlib import Path
import signal
import sys
import tempfile
import types
from typing import Any, TYPE_CHECKING, TypeVar

from tqdm import tqdm

from sd_perception_ros.cli.arguments import command_parser
from sd_perception_ros.cli.processes import node_environment, parameter_arguments, Processes
from sd_perception_ros.config import EngineConfig
from sd_perception_ros.paths import user_path
from sd_perception_ros.ros.replay.sources import DEMO

if TYPE_CHECKING:
    from sd_perception_ros.cli.demo.recording import Part

_Number = TypeVar('_Number', int, float)

PARTS = ('rooms', 'photos')
# Not measured: a scale for clouds of about the size of the rendered rooms.
SCALE_M, SHIFT_M = 4.0, 1.0
EXAMPLE = """example:
  python -m sd_perception_ros demo
  python -m sd_perception_ros demo --only photos --checkpoint my_checkpoint

Results of an earlier demo in the same folder are replaced. The nodes use a separate ROS
domain, unless ROS_DOMAIN_ID is set.
"""
# Files of an earlier demo.
MADE = ('rooms_*.png', 'photo_*.png', 'overview.*', 'rooms.mp4', 'rooms.avi', 'table.txt')
LOGS = ('camera.log', 'perception.log')


def main(argv: list[str] | None = None) -> int:
    """Run the demo; return 0, also after a signal, or 1 after an error."""
    options = _parser().parse_args(argv)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            text = _run(options, Path(scratch))
    except SystemExit:  # from _interrupt
        print('stopped', file=sys.stderr)
        return 0
    except (OSError, ValueError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    print(f'\n{text}\n\nPictures, film and logs are in {options.out}/; start with overview.png')
    return 0


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Make the environment of all processes of the demo; variables of the user are kept."""
    made = node_environment(environ)
    # Domains above 101 use ephemeral ports of the system.
    made.setdefault('ROS_DOMAIN_ID', str(1 + os.getpid() % 100))
    made.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    made.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
    return made


def _run(options: argparse.Namespace, scratch: Path) -> str:
    """Play, record and write everything; return the tables."""
    _clear(options.out)
    environ = environment(os.environ)
    os.environ.update(environ)  # the recorder in this process uses the same network
    parameters = {
        'checkpoint': options.checkpoint,
        'depth.scale.source': 'fixed',
        'depth.scale.scale_m': SCALE_M,
        'depth.scale.shift_m': SHIFT_M,
    }
    with _bar() as bar, Processes(environ, options.out) as nodes:
        nodes.start('perception', parameter_arguments(parameters))
        # Here, so that torch and ROS are loaded in both processes at the same time.
        from sd_perception_ros.checkpoint.config_file import tasks_of
        from sd_perception_ros.cli.demo import play, write
        from sd_perception_ros.cli.demo.recording import record
        from sd_perception_ros.ros.replay.recorder import RECORDED, Recorder, topics_of

        parts = _parts(options, scratch)
        bar.total = 2 * sum(len(part.names) for part in parts)  # each part is played and written
        topics = tuple(RECORDED)
        with contextlib.suppress(OSError, ValueError):  # the node reports errors
            topics = topics_of(tasks_of(options.checkpoint))
        with contextlib.closing(Recorder(topics)) as recorder:
            player = play.Player(recorder, nodes, bar, options.patience)
            player.wait_for_perception()
            recordings = [record(part, player.play(part), topics) for part in parts]
        nodes.stop()
        bar.set_description('writing')
        write.write_pictures(recordings, options.out, bar.update)
        bar.update(bar.total - bar.n)
        notes = f'checkpoint {options.checkpoint}, {os.cpu_count()} CPU cores'
        return write.write_table(recordings, options.out, notes, SCALE_M, SHIFT_M)


def _parts(options: argparse.Namespace, scratch: Path) -> list[Part]:
    from sd_perception_ros.cli.demo.recording import photos, rooms, shortened

    parts = []
    if options.only != 'photos':
        folder = shortened(DEMO, scratch, options.frames) if options.frames else DEMO
        parts.append(rooms(folder, options.rate))
    if options.only != 'rooms':
        parts.append(photos())
    return parts


def _bar() -> tqdm[Any]:
    every_s = 0.2 if sys.stderr.isatty() else 5.0  # in a log file every update is a line
    text = '{desc:15} {percentage:3.0f}% |{bar}| {elapsed}'
    desc = 'loading model'
    return tqdm(total=1, desc=desc, bar_format=text, mininterval=every_s, miniters=0)


def _clear(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for pattern in (*MADE, *LOGS):
        for path in folder.glob(pattern):
            path.unlink()


def _interrupt(number: int, frame: types.FrameType | None) -> None:
    for again in (signal.SIGINT, signal.SIGTERM):
        signal.signal(again, signal.SIG_IGN)  # nothing may interrupt the clean-up
    # No KeyboardInterrupt: one that passes through an import makes Python end by the signal.
    raise SystemExit(0)


def _positive(kind: type[_Number]) -> Callable[[str], _Number]:
    def read(text: str) -> _Number:
        try:
            value = kind(text)
        except ValueError:
            value = kind(0)
        if not 0 < value < 1e6:
            raise argparse.ArgumentTypeError(f"expected a number greater than 0, got '{text}'")
        return value

    return read


def _parser() -> argparse.ArgumentParser:
    parser = command_parser('demo', __doc__, EXAMPLE)
    add = parser.add_argument
    add(
        '--out',
        type=user_path,
        default=Path('demo_output'),
        help='folder of the results: %(default)s',
    )
    add('--checkpoint', default=EngineConfig.checkpoint, help='name or path: %(default)s')
    add('--only', choices=PARTS, help='run only this part')
    add('--rate', type=_positive(float), default=5.0, help='rate of the rooms in Hz: %(default)s')
    add('--frames', type=_positive(int), help='play only the first frames of the rooms')
    add(
        '--patience',
        type=_positive(float),
        default=60.0,
        help='seconds to wait for an output before giving up: %(default)s',
    )
    return parser


if __name__ == '__main__':
    sys.exit(main())
