"""What a checkpoint may open, how long the hub may take, and how a load is cancelled."""

from __future__ import annotations

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
import os
from pathlib import Path
import shutil
import signal
import socket
from threading import Event, Thread, Timer
import time

import huggingface_hub
import pytest
from ros_helpers import Peer, Process, ros_arguments, set_parameter
from std_srvs.srv import Trigger
import yaml

from sd_perception_ros.checkpoint import checkpoint, hub
from sd_perception_ros.checkpoint.config_file import open_checkpoint, read_config
from sd_perception_ros.checkpoint.files import only_below, read_json

PLACE = 'hub:owner/model'


@pytest.fixture
def folder(tmp_path: Path, tiny_checkpoint: Path) -> Path:
    """Return a folder with a checkpoint, a pipe, a socket, a loop of links and a huge file."""
    shutil.copytree(tiny_checkpoint, tmp_path / 'model')
    os.mkfifo(tmp_path / 'pipe')
    socket.socket(socket.AF_UNIX).bind(str(tmp_path / 'socket'))
    (tmp_path / 'loop').symlink_to(tmp_path / 'loop')
    with (tmp_path / 'huge').open('wb') as file:
        file.truncate(10**12)  # it takes no place on the disk
    return tmp_path


NOT_FILES = {
    'pipe': 'is a pipe, a device or a socket',
    'socket': 'is a pipe, a device or a socket',
    '/dev/zero': 'is a pipe, a device or a socket',
    'loop': 'cannot be opened',
    'huge': 'expected a text file of at most',
}


@pytest.mark.parametrize('name', NOT_FILES)
def test_what_is_no_regular_file_is_refused_at_once(folder: Path, name: str) -> None:
    path = str(folder / name)
    with pytest.raises(ValueError, match=NOT_FILES[name]):
        open_checkpoint(path)
    config = folder / 'checkpoint.yaml'
    for place in ({'unet': path}, {'unet': 'model/unet', 'head': 'light', 'head_weights': path}):
        if name == 'huge':
            continue  # weights may be large; this file has no header of safetensors
        config.write_text(yaml.safe_dump({'vae': 'model/vae', 'tasks': {'depth': place}}))
        with pytest.raises(ValueError, match=NOT_FILES[name]):
            checkpoint.load(str(config))


def test_a_pipe_in_place_of_a_file_of_a_checkpoint_is_refused(folder: Path) -> None:
    os.mkfifo(folder / 'config.json')
    with pytest.raises(ValueError, match='is a pipe'):
        read_json(folder / 'config.json')


def test_only_folders_that_are_allowed_are_opened(folder: Path, tiny_checkpoint: Path) -> None:
    allowed = folder / 'model'
    (allowed / 'out').symlink_to(tiny_checkpoint)
    with only_below([str(allowed)]):
        assert open_checkpoint(str(allowed)).path == allowed / 'checkpoint.yaml'
        assert open_checkpoint('bundled').path.is_file()
        assert checkpoint.load(str(allowed))[0].tasks
        for outside in (tiny_checkpoint, allowed / 'out', allowed / '..' / 'huge', Path('/etc')):
            with pytest.raises(ValueError, match='is not below checkpoint_folders'):
                open_checkpoint(str(outside))
        text = (allowed / 'checkpoint.yaml').read_text()
        (allowed / 'checkpoint.yaml').write_text(text.replace('unet: unet', f'unet: {folder}'))
        with pytest.raises(ValueError, match='is not below checkpoint_folders'):
            checkpoint.load(str(allowed))
    open_checkpoint(str(tiny_checkpoint))


def test_a_yaml_that_grows_when_it_is_printed_gives_a_short_error(tmp_path: Path) -> None:
    """Ten lists of ten lists each, to a depth of 30: 10^30 items if it was written out."""
    lines = ['a0: &a0 [x]'] + [
        f'a{i}: &a{i} [{", ".join([f"*a{i - 1}"] * 10)}]' for i in range(1, 30)
    ]
    file = tmp_path / 'checkpoint.yaml'
    file.write_text('\n'.join([*lines, 'base: *a29', 'tasks: {depth: {}}']))
    with pytest.raises(ValueError, match="unknown option 'a0'"):
        read_config(file)
    file.write_text('\n'.join(['base:', *('- &b0 x', '- &b1 [*b0, *b0]'), 'tasks: {depth: {}}']))
    with pytest.raises(ValueError, match='base must be a string, got '):
        read_config(file)


class SlowHub(BaseHTTPRequestHandler):
    """A hub that never answers, sends a web page, or fails."""

    answers = 'never'

    def do_GET(self) -> None:  # named by the standard library
        if self.answers == 'never':
            time.sleep(3600)
        status, body = (503, b'') if self.answers == 'fails' else (200, b'<html>Log in</html>')
        self.send_response(status)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, *_arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """Serve the slow hub; yields its address."""
    server = ThreadingHTTPServer(('127.0.0.1', 0), SlowHub)
    server.daemon_threads = True
    Thread(target=server.serve_forever, daemon=True).start()
    address = f'http://127.0.0.1:{server.server_address[1]}'
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, 'ENDPOINT', address)
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', False)
    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path / 'cache'))
    monkeypatch.setenv('XDG_CONFIG_HOME', str(tmp_path / 'config'))
    monkeypatch.setenv('NO_PROXY', '127.0.0.1')
    yield address
    server.shutdown()


@pytest.mark.parametrize(
    ('answers', 'error', 'words'),
    [
        ('never', FileNotFoundError, 'was not reached '),
        ('page', ValueError, 'does not answer as the hub does: expected JSON, got another text'),
        ('fails', FileNotFoundError, 'the hub failed .* try again later'),
    ],
)
def test_a_hub_that_fails_is_one_plain_error(
    endpoint: str, monkeypatch: pytest.MonkeyPatch, answers: str, error: type, words: str
) -> None:
    monkeypatch.setattr(SlowHub, 'answers', answers)
    with hub.waiting_at_most(1.0), pytest.raises(error, match=words):
        hub.on_disk(PLACE)


def test_a_wait_for_the_hub_can_be_cancelled(endpoint: str) -> None:
    cancelled = Event()
    Timer(0.5, cancelled.set).start()
    with (
        hub.waiting_at_most(600.0),
        hub.cancelled_by(cancelled),
        pytest.raises(ValueError, match='was cancelled while it waited for the hub'),
    ):
        hub.on_disk(PLACE)


# The forked process has imported huggingface_hub before its environment was set.
CODE = """
import sys
import huggingface_hub.constants as constants
constants.ENDPOINT, constants.HF_HUB_CACHE, constants.HF_HUB_OFFLINE = *sys.argv[1:3], False
del sys.argv[1:3]
from sd_perception_ros.__main__ import leave, main
leave(main(['perception', *sys.argv[1:]]))
"""


def test_a_load_that_waits_for_the_hub_is_cancelled_by_another_one_and_by_the_end(
    endpoint: str, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    arguments = ros_arguments(checkpoint=tiny_checkpoint, device='cpu', network_timeout_s=600.0)
    names = ('-r', '__ns:=/front')
    process = Process(
        tmp_path / 'log', endpoint, str(tmp_path / 'cache'), *arguments, *names, code=CODE
    )
    process.wait_for_output('subscribed to /front/image_raw')
    peer = Peer()
    reload = '/front/perception/reload_model'
    assert set_parameter(peer, 'checkpoint', PLACE) == ''
    _, first = peer.ask(Trigger, reload, Trigger.Request())
    peer.spin(2.0)
    assert not first.done()
    assert set_parameter(peer, 'checkpoint', str(tiny_checkpoint)) == ''
    second = peer.call(Trigger, reload, Trigger.Request())
    assert second.success, second.message
    assert peer.until(first.done)
    assert 'was cancelled while it waited for the hub' in first.result().message
    assert set_parameter(peer, 'checkpoint', PLACE) == ''
    _, third = peer.ask(Trigger, reload, Trigger.Request())
    peer.spin(2.0)
    assert not third.done()
    peer.close()
    assert process.end(signal.SIGINT) == 0
    assert 'Traceback' not in process.output


def test_a_checkpoint_that_a_peer_sets_to_a_pipe_fails_at_once(
    tiny_checkpoint: Path, folder: Path, tmp_path: Path
) -> None:
    arguments = ros_arguments(
        checkpoint=tiny_checkpoint, device='cpu', checkpoint_folders=f'[{tiny_checkpoint}]'
    )
    process = Process(tmp_path / 'log', 'perception', *arguments, '-r', '__ns:=/front')
    process.wait_for_output('subscribed to /front/image_raw')
    peer = Peer()
    for place in (folder / 'pipe', '/dev/zero', '/etc/passwd', folder / 'model'):
        assert set_parameter(peer, 'checkpoint', str(place)) == ''
        answer = peer.call(Trigger, '/front/perception/reload_model', Trigger.Request())
        assert (answer.success, 'is not below checkpoint_folders' in answer.message) == (
            False,
            True,
        )
    assert 'read-only' in set_parameter(peer, 'checkpoint_folders', ['/'])
    peer.close()
    assert process.end(signal.SIGINT) == 0
