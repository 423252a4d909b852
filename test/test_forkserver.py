"""A child of the forkserver is as a new process is."""

from __future__ import annotations

import json
from pathlib import Path
import signal
import subprocess
import sys

import pytest
from ros_helpers import environment, Process

# Prints what a program may see of its process; the last line only as the interpreter ends.
LOOK = """
import atexit, json, os, signal, sys, threading
pipes = [n for n in os.listdir('/proc/self/fd') if n not in '012'
         and os.path.realpath('/proc/self/fd/' + n).rpartition('/')[2].startswith('pipe')]
print(json.dumps({
    'arguments': sys.argv,
    'environment': dict(os.environ),
    'folder': os.getcwd(),
    'input': os.readlink('/proc/self/fd/0'),
    'pipes': pipes,
    'blocked': sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
    'handlers': [str(signal.getsignal(n)).partition(' at ')[0] for n in range(1, 32)],
    'threads': threading.active_count(),
    'group': os.getpgid(0),
}))
atexit.register(print, 'the end')
sys.exit(7)
"""


def test_it_has_the_environment_of_a_new_process_and_its_exit_code(tmp_path: Path) -> None:
    process = Process(tmp_path / 'log', 'some', 'words', code=LOOK)
    code = process.wait()
    anew = subprocess.run(
        [sys.executable, '-c', LOOK, 'some', 'words'],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env=environment(),
        cwd=tmp_path,
        text=True,
        check=False,
    )
    assert code == anew.returncode == 7
    ours, theirs = (text.splitlines() for text in (process.output, anew.stdout))
    assert json.loads(ours[0]) == json.loads(theirs[0])
    assert ours[1:] == theirs[1:] == ['the end']


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV])
def test_a_signal_that_ends_it_is_its_exit_code(tmp_path: Path, number: signal.Signals) -> None:
    code = f'import os; print("ready", flush=True); os.kill(os.getpid(), {int(number)})'
    process = Process(tmp_path / 'log', code=code)
    assert process.wait() == -number
    assert process.output == 'ready\n'


def test_it_can_be_interrupted_and_killed_while_waiting(tmp_path: Path) -> None:
    wait = 'import time; print("ready", flush=True); time.sleep(1000)'
    first, second = (Process(tmp_path / name, code=wait) for name in ('first', 'second'))
    for process in (first, second):
        process.wait_for_output('ready')
    assert first.end(signal.SIGINT) == -signal.SIGINT  # a KeyboardInterrupt that nobody caught
    assert first.output.endswith('KeyboardInterrupt\n')
    assert second.process.poll() is None
    second.kill()
    assert second.process.poll() == -signal.SIGKILL
