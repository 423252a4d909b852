"""The commands: help for each, and one line instead of a traceback for each mistake."""

from __future__ import annotations

import argparse
import importlib
import os
from pathlib import Path
import signal
import subprocess
import sys
import time

import pytest

from sd_perception_ros import __version__
from sd_perception_ros.__main__ import COMMANDS, main
from sd_perception_ros.cli.arguments import size

ROOT = Path(__file__).resolve().parents[1]
OFFLINE = [name for name, command in COMMANDS.items() if not command.is_node]
SLOW = ('torch', 'diffusers', 'transformers', 'rcl_interfaces')  # the last: of every ROS node


@pytest.mark.parametrize('name', OFFLINE)
def test_the_help_of_every_command_has_an_example(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([name, '--help'])
    assert ended.value.code == 0
    assert f'python -m sd_perception_ros {name}' in capsys.readouterr().out


def imported(words: list[str], folder: Path) -> tuple[set[str], int, str]:
    """Run a command in a fresh interpreter; return slow packages, exit code and what it wrote."""
    code = (
        'import sys\n'
        'from sd_perception_ros.__main__ import main\n'
        'try:\n'
        f'    code = main({words})\n'
        'except SystemExit as end:\n'
        '    code = end.code\n'
        f'print(*({SLOW} & sys.modules.keys()))\n'
        'sys.exit(code)\n'
    ).replace(str(SLOW), str(set(SLOW)))
    done = subprocess.run(
        [sys.executable, '-c', code],
        cwd=folder,
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    *text, slow = done.stdout.splitlines()
    return set(slow.split()), done.returncode, '\n'.join([*text, done.stderr])


@pytest.mark.parametrize('name', COMMANDS)
def test_help_needs_neither_torch_nor_ros(name: str, tmp_path: Path) -> None:
    slow, code, text = imported([name, '--help'], tmp_path)
    assert (slow, code) == (set(), 0)
    assert text.startswith(f'usage: python -m sd_perception_ros {name} ')


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['up', '--without', 'lidar'], "invalid choice: 'lidar'"),
        (['demo', '--rate', '0'], 'expected a number greater than 0'),
        (['train', '--data', 'x', '--base', 'x', '--out', 'x', '--tasks', 'dept'], "'dept'"),
        (['train', '--data', 'x', '--base', 'x', '--out', 'x', '--steps', '0'], 'at least 1'),
        (['train', '--recipe', 'none.yaml'], 'found no file at none.yaml'),
        (['train', '--data', 'x', '--base', 'x', '--out', 'x', '--task-options', 'a'], "got 'a'"),
        (['pretrain', '--data', 'x', '--out', 'x', '--denoiser-channels', '20'], 'of 8, got [20]'),
        (['evaluate', '--data', 'x', '--long-side-px', '5000'], 'at most 4096, got 5000'),
        (['evaluate', '--data', 'x', '--protocol', 'nuy'], "invalid choice: 'nuy'"),
        (['evaluate', '--data', 'x', '--worst', '0'], '--worst must be at least 1, got 0'),
        (['export', '--out', 'x', '--runtime', 'tensorrt'], "invalid choice: 'tensorrt'"),
        (['export', '--out', 'x', '--size', '100x99'], 'in multiples of 8'),
        (['data', 'look'], "invalid choice: 'look'"),
        (['predict', 'a.jpg'], 'required: --out'),
        (['predict', 'a.jpg', '--out', 'x', '-p', 'a'], 'NAME:=VALUE'),
        (['synthesize'], 'required: --out'),
        (['bake-bodies'], 'required: --out'),
    ],
    ids=' '.join,
)
def test_wrong_arguments_are_refused_before_torch_is_imported(
    words: list[str], message: str, tmp_path: Path
) -> None:
    slow, code, text = imported(words, tmp_path)
    assert slow == set()
    assert code in (1, 2)
    assert 'error: ' in text.splitlines()[-1]
    assert message in text.splitlines()[-1]


def test_the_help_of_a_node_has_every_parameter(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['camera', '--help']) == 0
    camera = capsys.readouterr().out
    assert main(['perception', '--help']) == 0
    perception = capsys.readouterr().out
    assert '\n  rate_hz: 0.0 ' in camera
    assert '\n  precision: "auto" ' in perception
    assert '\n  depth.scale.limits.tolerance: ' in perception


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """Also by the executable of `ros2 run`, which ends its process."""
    assert main(['--version']) == 0
    code = (
        "import sys; sys.argv = ['perception_node', '--version']\n"
        'from sd_perception_ros.__main__ import perception_node; perception_node()'
    )
    done = subprocess.run(
        [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, capsys.readouterr().out)
    assert done.stdout == f'sd_perception_ros {__version__}\n'


@pytest.mark.parametrize('words', ['--help', 'perception --help', 'train --help'])
def test_a_closed_pipe_gives_no_traceback(words: str) -> None:
    command = [sys.executable, '-m', 'sd_perception_ros', *words.split()]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.close()
        errors = child.stderr.read()
    assert child.returncode in (0, 128 + signal.SIGPIPE)  # 0: argparse ignores it
    assert errors == b''


def test_only_commands_that_can_be_resumed_say_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(argv: list[str]) -> int:
        raise KeyboardInterrupt

    said = {}
    handler = signal.getsignal(signal.SIGTERM)
    for name in ('synthesize', 'bake-bodies'):
        module = importlib.import_module(f'sd_perception_ros.{COMMANDS[name].module}')
        monkeypatch.setattr(module, 'main', stop)
        assert main([name]) == 130
        said[name] = capsys.readouterr().err
    signal.signal(signal.SIGTERM, handler)
    hint = 'stopped; run the same command again to resume\n'
    assert said == {'synthesize': hint, 'bake-bodies': 'stopped\n'}
    resuming = {name for name, command in COMMANDS.items() if command.resumes}
    assert resuming == {'predict', 'synthesize', 'pretrain', 'train', 'checkpoints'}


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['dmeo'], "unknown command 'dmeo'; did you mean 'demo'"),
        (['train', '--base', 'nowhere', '--data', 'nowhere', '--out', 'x'], 'expected rendered'),
        (['evaluate', '--checkpoint', 'nowhere', '--data', '.'], 'expected a checkpoint'),
        (['pretrain', '--data', 'nowhere', '--out', 'x'], 'make some with the synthesize command'),
        (['pretrain', '--data', '.', '--out', 'x', '--denoiser-channels', '20'], 'multiples of 8'),
        (
            ['pretrain', '--data', '.', '--out', 'x', '--denoiser-steps', '0'],
            '0 with --denoi',
        ),
        (['synthesize', '--assets', 'nowhere', '--out', 'x'], 'sweethome3d-furniture'),
        (['bake-bodies', '--out', 'x'], 'python -m pip install -r requirements/train.txt anny'),
        (['export', '--out', '/dev/null/graphs'], "'/dev/null/graphs' cannot be used (Not a dir"),
    ],
)
def test_an_error_is_one_line(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) in (1, 2)
    errors = capsys.readouterr().err.splitlines()
    assert [line for line in errors if message in line] == errors[-1:]
    assert errors[-1].startswith('error: ')


@pytest.mark.parametrize('text', ['0x192', '256', '100x99', '-8x8', 'axb'])
def test_a_size_is_two_positive_multiples_of_eight(text: str) -> None:
    assert size('256x192') == (192, 256)
    with pytest.raises(argparse.ArgumentTypeError, match=f"such as 256x192, got '{text}'"):
        size(text)


@pytest.mark.parametrize(
    ('number', 'workers'), [(signal.SIGINT, 1), (signal.SIGTERM, 1), (signal.SIGTERM, 2)]
)
def test_an_interrupted_rendering_says_that_it_can_be_resumed(
    number: signal.Signals, workers: int, tmp_path: Path
) -> None:
    command = [sys.executable, '-m', 'sd_perception_ros', 'synthesize', '--assets', 'none']
    numbers = ['--out', str(tmp_path / 'rooms'), '--scenes', '1000']
    words = [*command, *numbers, '--workers', str(workers)]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as child:
        deadline = time.monotonic() + 180
        while not list(tmp_path.glob('rooms/*.camera.json')) and time.monotonic() < deadline:
            time.sleep(0.1)
        child.send_signal(number)
        _, errors = child.communicate(timeout=180)
    assert child.returncode == 130
    assert 'Traceback' not in errors
    assert errors.endswith('stopped; run the same command again to resume\n')
