"""Reloading: another model is loaded while the old one processes frames, in real processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
import signal
import time

from lifecycle_msgs.msg import State, Transition
from models import tiny_model
import numpy as np
import pytest
from ros_helpers import (
    answer_of,
    change,
    connect,
    FakeCamera,
    Peer,
    picture,
    pixels,
    Process,
    ros_arguments,
    running,
    set_parameter,
    state,
)
from sensor_msgs.msg import Image
from std_srvs.srv import Trigger

from sd_perception_ros.checkpoint.checkpoint import save
from sd_perception_ros.checkpoint.config_file import CheckpointConfig
from sd_perception_ros.config import EngineConfig
from sd_perception_ros.engine import Engine

NODE = '/front/perception'
RELOAD = f'{NODE}/reload_model'


@pytest.fixture(scope='module')
def slow_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """
    Save a checkpoint with other tasks and weights.

    Images are not resized: the warm-up at VGA takes seconds, a small frame does not.
    """
    heads = {'depth': 'decoder', 'disparity': 'decoder'}
    folder = tmp_path_factory.mktemp('slow')
    about = CheckpointConfig(long_side_px=0, license='Apache-2.0')
    save(folder, tiny_model(heads, seed=1, vae_channels=48), about)
    return folder


@pytest.fixture
def process(tiny_checkpoint: Path, tmp_path: Path) -> Iterator[Process]:
    arguments = ros_arguments(checkpoint=tiny_checkpoint, device='cpu', threads=1)
    with running(tmp_path / 'log', 'perception', *arguments, '-r', '__ns:=/front') as made:
        made.wait_for_output('subscribed to /front/image_raw')
        yield made
        assert 'Traceback' not in made.output


@pytest.fixture
def peer(process: Process) -> Iterator[Peer]:
    made = Peer()
    yield made
    made.close()


def depth(peer: Peer, camera: FakeCamera, rgb: np.ndarray) -> np.ndarray:
    return pixels(answer_of(Image, peer, camera, '/front/depth/relative', rgb)[1])


def expected(checkpoint: Path, rgb: np.ndarray) -> np.ndarray:
    engine = Engine.from_config(EngineConfig(checkpoint=str(checkpoint), device='cpu'))
    return engine.predict([rgb], ['depth'])[0]['depth'].values


def topics(peer: Peer) -> set[str]:
    names = dict(peer.node.get_publisher_names_and_types_by_node('perception', '/front'))
    groups = {name.split('/')[2] for name in names if name.startswith('/front/')}
    return groups - {'perception'}  # its own, such as ~/transition_event


def begin_reload(peer: Peer, checkpoint: Path) -> object:
    """Call a slow reload twice: one call is refused at once; return the future of the other."""
    assert set_parameter(peer, 'checkpoint', str(checkpoint)) == ''
    # Either client may be first.
    client, first = peer.ask(Trigger, RELOAD, Trigger.Request())
    second = client.call_async(Trigger.Request())
    assert peer.until(lambda: first.done() or second.done())
    refused, reload = (first, second) if first.done() else (second, first)
    answer = refused.result()
    assert (answer.success, 'in progress' in answer.message) == (False, True)
    assert not reload.done()
    return reload


def test_frames_are_processed_while_another_model_is_loaded_and_then_by_the_new_one(
    tiny_checkpoint, slow_checkpoint, process, peer
):
    rgb = picture()
    camera = FakeCamera(peer, topic='/front/image_raw')
    connect(peer, camera)
    np.testing.assert_allclose(depth(peer, camera, rgb), expected(tiny_checkpoint, rgb), atol=1e-4)

    assert set_parameter(peer, 'checkpoint', '/no/such/folder') == ''
    answer = peer.call(Trigger, RELOAD, Trigger.Request())
    assert (answer.success, '/no/such/folder' in answer.message) == (False, True)
    assert '\n' not in answer.message
    np.testing.assert_allclose(depth(peer, camera, rgb), expected(tiny_checkpoint, rgb), atol=1e-4)

    got = peer.received['/front/depth/relative']
    reload, received = begin_reload(peer, slow_checkpoint), 0
    began = time.monotonic()
    while not reload.done():
        got.clear()
        camera.send(rgb)
        peer.until(lambda: got or reload.done(), 1.0)
        received += len(got)
    assert received >= 3, f'{received} frames in {time.monotonic() - began:.1f} s of loading'
    assert reload.result().success, reload.result().message
    assert 'depth, disparity' in reload.result().message

    assert peer.until(lambda: topics(peer) == {'depth', 'disparity'}), topics(peer)
    np.testing.assert_allclose(depth(peer, camera, rgb), expected(slow_checkpoint, rgb), atol=1e-4)
    assert process.end(signal.SIGINT) == 0


def test_a_node_deactivated_while_loading_uses_the_new_model_after_activation(
    slow_checkpoint, process, peer
):
    camera = FakeCamera(peer, topic='/front/image_raw')
    reload = begin_reload(peer, slow_checkpoint)
    assert change(peer, Transition.TRANSITION_DEACTIVATE)
    assert not reload.done(), 'the transition waited for the load'
    assert peer.until(reload.done)
    assert reload.result().success, reload.result().message
    assert change(peer, Transition.TRANSITION_ACTIVATE)
    connect(peer, camera)
    rgb = picture()
    np.testing.assert_allclose(depth(peer, camera, rgb), expected(slow_checkpoint, rgb), atol=1e-4)
    assert process.end(signal.SIGTERM) == 0


def test_a_node_cleaned_up_while_loading_drops_the_new_model(
    tiny_checkpoint, slow_checkpoint, process, peer
):
    reload = begin_reload(peer, slow_checkpoint)
    assert change(peer, Transition.TRANSITION_DEACTIVATE)
    assert change(peer, Transition.TRANSITION_CLEANUP)
    assert peer.until(reload.done)
    assert (reload.result().success, 'cleaned up' in reload.result().message) == (False, True)
    assert state(peer) == State.PRIMARY_STATE_UNCONFIGURED
    assert peer.until(lambda: not topics(peer))
    answer = peer.call(Trigger, RELOAD, Trigger.Request())
    assert (answer.success, 'configure the node' in answer.message) == (False, True)
    assert set_parameter(peer, 'checkpoint', str(tiny_checkpoint)) == ''
    assert change(peer, Transition.TRANSITION_CONFIGURE)
    assert peer.until(lambda: topics(peer) == {'depth', 'normals'})
    assert process.end(signal.SIGINT) == 0


@pytest.mark.parametrize('shut_down', [False, True])
def test_a_node_that_ends_while_loading_ends_without_traceback(
    slow_checkpoint, process, peer, shut_down
):
    begin_reload(peer, slow_checkpoint)
    if shut_down:
        assert change(peer, Transition.TRANSITION_ACTIVE_SHUTDOWN)
        assert state(peer) == State.PRIMARY_STATE_FINALIZED
    assert process.end(signal.SIGINT) == 0


# Memory can be inspected only inside the process, without automatic garbage collection.
LEAK = """
import gc, sys, weakref
import rclpy
from rclpy.executors import SingleThreadedExecutor
from std_srvs.srv import Trigger
from sd_perception_ros.ros.perception_node import PerceptionNode

rclpy.init(args=sys.argv)
node = PerceptionNode()
executor = SingleThreadedExecutor()
executor.add_node(node)
gc.disable()
node.start()
weights = weakref.ref(next(node._serving.current.engine._models[0].model.parameters()))
reload = executor.create_task(node._reload_service._reload, Trigger.Request(), Trigger.Response())
executor.spin_until_future_complete(reload)
print('reloaded:', reload.result().success)
node._on_timer()
print('old model:', weights() is not None)
node.close()
node.destroy_node()
rclpy.shutdown()
"""


def test_the_old_model_is_freed(tiny_checkpoint, tmp_path):
    arguments = ros_arguments(checkpoint=tiny_checkpoint, device='cpu')
    process = Process(tmp_path / 'log', *arguments, code=LEAK)
    assert process.wait() == 0, process.output
    lines = [line for line in process.output.splitlines() if not line.startswith('[')]
    assert lines == ['reloaded: True', 'old model: False']
