"""Faults of the network, its device and its memory, in a real node."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
import re
import signal
import time

from diagnostic_msgs.msg import DiagnosticStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
import numpy as np
import pytest
from ros_helpers import (
    answer_of,
    FakeCamera,
    PATIENCE_S,
    Peer,
    picture,
    Process,
    ros_arguments,
)
from sensor_msgs.msg import Image

from sd_perception_ros.engine import Engine
from sd_perception_ros.ros.memory_fallback import MemoryFallback
from sd_perception_ros.ros.node.errors import is_device_lost, is_out_of_memory

# A node whose network has the fault that the width of a picture stands for.
CODE = """
import sys, time
import numpy as np
from sd_perception_ros.engine import Engine

class Odd(Exception):
    pass

def hang():
    time.sleep(1e6)

def fail(error):
    raise error

predict = Engine.predict

def faulty(self, pictures, tasks=None, boxes=None):
    results = predict(self, pictures, tasks, boxes)
    depth = results[0].get('depth')
    fault = {
        101: lambda: hang(),
        102: lambda: fail(RuntimeError('CUDA error: device-side assert triggered\\nCompile with')),
        103: lambda: fail(Odd('nobody expects this')),
        104: lambda: None,
        105: lambda: [],
        106: lambda: [{}],
        107: lambda: [{'depth': 'far', 'normals': 3}],
        108: lambda: [{'depth': depth and type(depth)(depth.values * np.nan)}],
        109: lambda: fail(FloatingPointError('the network gave depth values')),
        110: lambda: fail(MemoryError('1000 TB')),
    }.get(pictures[0].shape[1])
    return fault() if fault else results

Engine.predict = faulty
from sd_perception_ros.__main__ import leave, main
leave(main(['perception', *sys.argv[1:]]))
"""
HANG, ASSERT, UNEXPECTED = 101, 102, 103
# Width of the picture: the counter, and words of the error.
DROPPED = {
    104: ('dropped: failed', 'TypeError'),
    105: ('dropped: bad_image', 'zip()'),
    106: ('dropped: failed', "KeyError: 'depth'"),
    107: ('dropped: failed', 'TypeError'),
    108: ('dropped: not_finite', 'depth'),
    109: ('dropped: not_finite', 'the network gave depth values'),
    110: ('dropped: out_of_memory', 'set a smaller long_side_px'),
}


NODE, TOPIC = '/front/perception', '/front/depth/relative'


def start(log: Path, checkpoint: Path, namespace: str = '/front', **parameters: object) -> Process:
    arguments = ros_arguments(
        checkpoint=checkpoint, device='cpu', diagnostics_rate_hz=10.0, **parameters
    )
    process = Process(log, *arguments, '-r', f'__ns:={namespace}', code=CODE)
    process.wait_for_output(f'subscribed to {namespace.rstrip("/")}/image_raw')
    return process


@pytest.fixture(scope='module')
def node(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    process = start(tmp_path_factory.mktemp('node') / 'log', tiny_checkpoint, '/')
    yield process
    assert process.end() == 0
    assert 'Traceback' not in process.output


@pytest.fixture
def lone_peer() -> Iterator[Peer]:
    made = Peer()
    yield made
    made.close()


@pytest.fixture
def front(lone_peer: Peer) -> FakeCamera:
    return FakeCamera(lone_peer, topic='/front/image_raw')


def good(peer: Peer, camera: FakeCamera, topic: str = TOPIC) -> None:
    answer_of(Image, peer, camera, topic, picture())


@pytest.mark.parametrize('width', DROPPED)
def test_an_odd_result_of_the_network_is_dropped_and_reported(node, peer, camera, width):
    name, words = DROPPED[width]
    good(peer, camera, '/depth/relative')
    before = int(peer.counters().get(name, 0))
    image = camera.send(picture(48, width))
    seen = peer.counters_when(lambda seen: int(seen.get(name, 0)) > before)
    assert int(seen[name]) > before
    assert words in seen['last error']
    good(peer, camera, '/depth/relative')
    assert peer.with_stamp('/depth/relative', image) is None


def send_until(process: Process, peer: Peer, camera: FakeCamera, width: int, words: str) -> None:
    """Send pictures of a fault until the node writes some words."""
    good(peer, camera)
    deadline = time.monotonic() + PATIENCE_S
    while words not in process.output and time.monotonic() < deadline:
        camera.send(picture(48, width))
        peer.spin(0.2)
    assert words in process.output


def hang(peer: Peer, camera: FakeCamera) -> Image:
    """Send a picture that hangs, until the node has it in hand."""
    good(peer, camera)
    count = int(peer.counters(NODE)['received'])
    sent = camera.send(picture(48, HANG))
    peer.counters_when(lambda seen: int(seen['received']) > count, NODE)
    peer.spin(0.3)
    return sent


def test_a_frame_that_hangs_is_an_error_with_its_age_and_then_ends_the_process_with_3(
    tiny_checkpoint, tmp_path, lone_peer, front
):
    process = start(tmp_path / 'log', tiny_checkpoint, watchdog_s=1.0, watchdog_exit_s=6.0)
    sent = hang(lone_peer, front)
    seen = lone_peer.counters_when(lambda seen: 'still in hand' in seen['message'], NODE)
    assert seen['level'] == DiagnosticStatus.ERROR
    found = re.search(r'no result for (\d+) s: the frame with the stamp (\d+)\.', seen['message'])
    assert found is not None
    assert int(found[1]) >= 1
    assert int(found[2]) == sent.header.stamp.sec
    assert process.wait() == 3
    assert 'more than watchdog_exit_s = 6; ending with exit code 3' in process.output
    assert process.output.count('still in hand') == 1
    assert 'Traceback' not in process.output


def test_a_node_that_hangs_ends_at_a_signal(tiny_checkpoint, tmp_path, lone_peer, front):
    process = start(tmp_path / 'log', tiny_checkpoint, watchdog_exit_s=0.0)
    hang(lone_peer, front)
    assert process.end(signal.SIGTERM) == 0
    assert 'the frame in hand is not finished: ending without it' in process.output


def test_a_node_that_hangs_ends_with_3_at_a_transition(
    tiny_checkpoint, tmp_path, lone_peer, front
):
    process = start(tmp_path / 'log', tiny_checkpoint, watchdog_exit_s=4.0)
    hang(lone_peer, front)
    lone_peer.ask(
        ChangeState,
        f'{NODE}/change_state',
        ChangeState.Request(transition=Transition(id=Transition.TRANSITION_DEACTIVATE)),
    )
    assert process.wait() == 3


def test_a_device_side_assert_ends_the_process_with_3_and_one_line(
    tiny_checkpoint, tmp_path, lone_peer, front
):
    process = start(tmp_path / 'log', tiny_checkpoint)
    send_until(process, lone_peer, front, ASSERT, 'ending with exit code 3')
    assert process.wait() == 3
    assert 'the GPU cannot be used again by this process (RuntimeError: CUDA' in process.output
    assert 'Traceback' not in process.output


def test_an_unexpected_exception_costs_one_frame_and_is_logged_in_one_line(
    tiny_checkpoint, tmp_path, lone_peer, front
):
    process = start(tmp_path / 'log', tiny_checkpoint)
    send_until(process, lone_peer, front, UNEXPECTED, 'image dropped: Odd: nobody expects this')
    good(lone_peer, front)
    assert process.end() == 0
    assert 'Traceback' not in process.output


@pytest.mark.parametrize(
    ('error', 'memory', 'lost'),
    [
        (MemoryError(), True, False),
        (RuntimeError('CUDA error: out of memory'), True, False),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), True, False),
        (RuntimeError('CUDA error: device-side assert triggered'), False, True),
        (RuntimeError('CUDA error: an illegal memory access was encountered'), False, True),
        (RuntimeError('Calculated padded input size per channel'), False, False),
        (ValueError('CUDA error'), False, False),
    ],
)
def test_what_is_out_of_memory_and_what_ends_the_gpu(error, memory, lost):
    assert (is_out_of_memory(error), is_device_lost(error)) == (memory, lost)


class Scarce(Engine):
    """An engine with room for some pixels of the network's input; they are the whole batch's."""

    room_px: int

    def _run_batch(self, pictures, tasks):
        height, width = pictures[0].shape[:2]
        [(_, (h, w))] = [model.sizes(height, width) for model in self._models]
        if len(pictures) * h * w > self.room_px:
            raise MemoryError(f'{len(pictures)} x {h} x {w}')
        return super()._run_batch(pictures, tasks)


@pytest.fixture(scope='module')
def scarce(tiny_checkpoint: Path) -> Scarce:
    return Scarce.load(str(tiny_checkpoint), device='cpu', long_side_px=256)


def test_without_memory_the_batch_gets_smaller_then_the_size_and_both_come_back(scarce):
    """Pictures of 192 x 256 pixels; half as long a side is a quarter of the pixels."""
    now_s, said = [0.0], []
    fallback = MemoryFallback(said.append, lambda: now_s[0])
    pictures = [picture(192, 256, seed) for seed in range(2)]

    def sizes(room_px: int) -> str:
        scarce.room_px = room_px
        results = fallback.predict(scarce, pictures, ['depth'], None)
        assert [one['depth'].values.shape for one in results] == [(192, 256)] * 2
        assert all(np.isfinite(one['depth'].values).all() for one in results)
        return fallback.state

    whole = 192 * 256
    assert sizes(2 * whole) == ''
    assert sizes(whole) == 'one picture at a time'
    assert sizes(whole // 2) == 'one picture at a time, long side 128 px'
    assert sizes(2 * whole) == 'one picture at a time, long side 128 px'  # not tried again yet
    assert len(said) == 1
    now_s[0] = 61.0  # tried, and it fails: nothing more is said
    assert sizes(whole // 4) == 'one picture at a time, long side 128 px'
    now_s[0] = 122.0  # the next trial comes after twice the time
    assert sizes(2 * whole) == 'one picture at a time, long side 128 px'
    assert len(said) == 1
    now_s[0] = 182.0
    assert sizes(2 * whole) == ''
    assert said[1:] == ['enough memory again: full batch and size']
    with pytest.raises(MemoryError):
        sizes(100)
