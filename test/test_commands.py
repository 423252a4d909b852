"""The commands: help for each, and one line instead of a traceback for each mistake."""

from __future__ import annotations

import argparse
from pathlib import Path
import signal
import subprocess
import sys
import time

import pytest

from sd_perception_ros.__main__ import COMMANDS, main
from sd_perception_ros.cli.arguments import size

OFFLINE = [name for name, (module, *_) in COMMANDS.items() if module.startswith('cli.')]


@pytest.mark.parametrize('name', OFFLINE)
def test_every_command_explains_itself_with_an_example(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([name, '--help'])
    assert ended.value.code == 0
    assert f'python -m sd_perception_ros {name}' in capsys.readouterr().out


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
def test_a_mistake_is_one_line(
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
def test_a_stopped_rendering_says_that_it_goes_on(
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
    assert errors.endswith('stopped; the same command goes on from what was saved\n')
