"""The perception node as a real process: images are sent over DDS, outputs are received."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import hashlib
import itertools
from pathlib import Path
import shutil
import signal
import time
from typing import Any

from builtin_interfaces.msg import Time
import cv2
from diagnostic_msgs.msg import DiagnosticStatus
from lifecycle_msgs.msg import State, Transition
import numpy as np
import pytest
from ros_helpers import (
    answer_of,
    BEST_EFFORT,
    change,
    connect,
    FakeCamera,
    Peer,
    picture,
    pixels,
    Process,
    results_of,
    ros_arguments,
    running,
    serving,
    set_parameter,
    state,
)
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2
from std_srvs.srv import SetBool

from sd_perception_ros.config import EngineConfig
from sd_perception_ros.engine import Engine
from sd_perception_ros.ros.replay.camera_node import jpeg_message

SCALE_M, SHIFT_M = 4.0, 1.0
NODE = '/front/perception'
OUTPUTS = {
    '/depth/relative': Image,
    '/depth/color': Image,
    '/depth/image_rect': Image,
    '/depth/camera_info': CameraInfo,
    '/depth/points': PointCloud2,
    '/normals/image': Image,
    '/normals/color': Image,
}


@pytest.fixture(scope='module')
def engine(tiny_checkpoint: Path) -> Engine:
    return Engine.from_config(EngineConfig(checkpoint=str(tiny_checkpoint), device='cpu'))


@pytest.fixture(scope='module')
def node(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    with serving(
        tmp_path_factory.mktemp('node') / 'log',
        checkpoint=tiny_checkpoint,
        device='cpu',
        diagnostics_rate_hz=10.0,
        max_pixels=1_000_000,
        depth__scale__source='fixed',
        depth__scale__scale_m=SCALE_M,
        depth__scale__shift_m=SHIFT_M,
        checkpiont='a typo',
    ) as process:
        yield process


@pytest.fixture
def peer_alone() -> Iterator[Peer]:
    made = Peer()
    yield made
    made.close()


def answer(peer: Peer, camera: FakeCamera, topic: str, rgb: np.ndarray) -> tuple[Image, object]:
    return answer_of(OUTPUTS[topic], peer, camera, topic, rgb)


def test_a_misspelt_parameter_is_reported(node):
    assert "unknown parameter 'checkpiont'; did you mean 'checkpoint'?" in node.output


def test_the_hashes_of_the_weights_are_logged(node, tiny_checkpoint):
    file = tiny_checkpoint / 'unet/diffusion_pytorch_model.safetensors'
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    node.wait_for_output(f'read {file}, SHA-256 {digest}')


def test_the_diagnostics_have_the_licence_of_the_weights(peer, camera):
    seen = peer.counters_when(lambda seen: 'licence' in seen)
    assert (seen['licence'], seen['commercial use']) == ('Apache-2.0', 'allowed')


def test_nothing_is_computed_without_subscribers(peer, camera):
    before = peer.counters()
    expected = int(before.get('received', 0)) + 3
    for _ in range(3):
        camera.send(picture())
        peer.spin(0.1)
    after = peer.counters_when(lambda seen: int(seen.get('received', 0)) >= expected)
    assert int(after['received']) == expected
    assert after.get('processed') == before.get('processed')
    assert 'dropped: no_subscribers' in after


def test_depth_equals_the_engine_and_the_header_is_copied(peer, camera, engine):
    rgb = picture()
    sent, depth = answer(peer, camera, '/depth/relative', rgb)
    assert depth.header == sent.header
    assert depth.encoding == '32FC1'
    [expected] = engine.predict([rgb])
    np.testing.assert_allclose(pixels(depth), expected['depth'].values, atol=1e-4)


def test_normals_are_unit_vectors_that_equal_the_engine(peer, camera, engine):
    rgb = picture(seed=3)
    sent, normals = answer(peer, camera, '/normals/image', rgb)
    assert normals.header == sent.header
    assert normals.encoding == '32FC3'
    [expected] = engine.predict([rgb])
    np.testing.assert_allclose(pixels(normals), expected['normals'].values, atol=1e-3)


def test_colors_have_the_size_of_the_image(peer, camera, engine):
    rgb = picture(50, 70)
    for topic, task in (('/depth/color', 'depth'), ('/normals/color', 'normals')):
        _, color = answer(peer, camera, topic, rgb)
        assert color.encoding == 'rgb8'
        expected = engine.tasks[task].colorize(engine.predict([rgb])[0][task])
        assert np.abs(pixels(color).astype(int) - expected).mean() < 1


def test_metres_are_scale_times_relative_plus_shift(peer, camera):
    rgb = picture(seed=1)
    _, relative = answer(peer, camera, '/depth/relative', rgb)
    sent, metric = answer(peer, camera, '/depth/image_rect', rgb)
    assert (metric.encoding, metric.header) == ('32FC1', sent.header)
    values, metres = pixels(relative), pixels(metric)
    inside = (values > 0) & (values < 1)
    assert inside.mean() > 0.5
    np.testing.assert_allclose(metres[inside], SCALE_M * values[inside] + SHIFT_M, atol=1e-3)
    assert not np.isfinite(metres[~inside]).any()
    sent, info = answer(peer, camera, '/depth/camera_info', rgb)
    assert info.header == sent.header
    assert (info.width, info.height) == (64, 48)


def test_points_lie_on_the_rays_of_their_pixels(peer, camera):
    """The camera has focal lengths of 32 and 40 pixels, and its centre at 28, 27."""
    rgb = picture(seed=2)
    topics = {name: OUTPUTS[name] for name in ('/depth/points', '/depth/image_rect')}
    sent, (cloud, metric) = results_of(peer, lambda: camera.send(rgb), topics)
    depth_m = pixels(metric)
    assert cloud.header == sent.header
    assert (cloud.height, cloud.width, cloud.point_step) == (48, 64, 16)
    assert (cloud.row_step, cloud.is_dense) == (64 * 16, False)
    assert [(f.name, f.offset) for f in cloud.fields] == [
        *[('x', 0), ('y', 4), ('z', 8), ('rgb', 12)]
    ]
    points = np.frombuffer(cloud.data, np.float32).reshape(48, 64, 4)
    seen = np.isfinite(depth_m)
    np.testing.assert_allclose(points[..., 2], np.where(seen, depth_m, np.nan), atol=1e-3)
    row, column = np.argwhere(seen)[-1]
    x, y, z = points[row, column, :3]
    np.testing.assert_allclose(x, (column - 28) / 32 * z, rtol=1e-5)
    np.testing.assert_allclose(y, (row - 27) / 40 * z, rtol=1e-5)
    packed = int(points[row, column, 3:].view(np.uint32)[0])
    assert [packed >> 16, packed >> 8 & 255, packed & 255] == rgb[row, column].tolist()


def test_the_camera_info_of_depth_is_the_camera_of_the_points(peer, camera):
    """No distortion, and P made from K, whatever P the driver publishes."""
    driver = CameraInfo(width=128, height=96, distortion_model='plumb_bob')
    driver.k = [80.0, 0.0, 63.0, 0.0, 82.0, 47.0, 0.0, 0.0, 1.0]
    driver.p = [70.0, 0.0, 60.0, -9.0, 0.0, 75.0, 40.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    driver.d = [-0.3, 0.1, 0.0, 0.0, 0.0]
    driver.binning_x = driver.binning_y = 2

    def send() -> Image:
        image = camera.image(picture())
        driver.header = image.header
        camera.infos.publish(driver)
        camera.images.publish(image)
        return image

    topics = {name: OUTPUTS[name] for name in ('/depth/camera_info', '/depth/points')}
    for _ in range(20):  # an image that overtakes its info is matched with the previous info
        image, (info, cloud) = results_of(peer, send, topics)
        if info.k[0] == 40:
            break
    assert info.header == cloud.header == image.header
    assert (info.width, info.height, info.binning_x) == (64, 48, 0)
    assert info.k.tolist() == [40.0, 0.0, 31.5, 0.0, 41.0, 23.5, 0.0, 0.0, 1.0]
    assert info.p.tolist() == [40.0, 0.0, 31.5, 0.0, 0.0, 41.0, 23.5, 0.0, 0.0, 0.0, 1.0, 0.0]
    assert info.r.tolist() == [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    assert not any(info.d)
    points = np.frombuffer(cloud.data, np.float32).reshape(48, 64, 4)
    row, column = np.argwhere(np.isfinite(points[..., 2]))[-1]
    x, y, z = points[row, column, :3]
    assert x / z * info.p[0] + info.p[2] == pytest.approx(column, abs=1e-3)
    assert y / z * info.p[5] + info.p[6] == pytest.approx(row, abs=1e-3)


WRONG_IMAGES = {
    "the encoding 'rgb9'": {'encoding': 'rgb9'},
    "the encoding ''": {'encoding': ''},
    "mono16'": {'encoding': '16UC1'},
    'step must be at least 192': {'step': 191},
    'data must hold 9600 bytes': {'height': 50},
    'at least one pixel': {'width': 0},
    'more than max_pixels = 1000000': {'width': 100_000, 'height': 100_000},
}


@pytest.mark.parametrize('words', WRONG_IMAGES)
def test_a_wrong_image_is_reported_and_the_next_good_one_is_processed(peer, camera, words):
    answer(peer, camera, '/depth/relative', picture())
    before = peer.counters()
    wrong = camera.image(picture())
    for name, value in WRONG_IMAGES[words].items():
        setattr(wrong, name, value)
    camera.images.publish(wrong)
    name = 'dropped: bad_image'
    expected = int(before.get(name, 0)) + 1
    seen = peer.counters_when(lambda seen: int(seen.get(name, 0)) >= expected)
    assert int(seen[name]) == expected
    assert words in seen['last error']
    answer(peer, camera, '/depth/relative', picture())


def test_image_errors_are_logged_as_single_lines_and_not_for_every_frame(node, peer, camera):
    answer(peer, camera, '/depth/relative', picture())
    before, began = node.output.count('image dropped'), time.monotonic()
    name = 'dropped: bad_image'
    count = int(peer.counters().get(name, 0))
    for _ in range(30):
        camera.images.publish(Image(width=3, height=3, encoding='rgb9', step=9))
        peer.spin(0.02)
    peer.counters_when(lambda seen: int(seen.get(name, 0)) >= count + 2)
    most = 1 + (time.monotonic() - began) // 5  # one in 5 s
    assert node.output.count('image dropped') - before <= most
    assert 'Traceback' not in node.output


@pytest.mark.parametrize('k', [[0.0] * 9, [float('nan')] * 9])
def test_a_camera_info_without_calibration_stops_points_but_not_images(peer, camera, k):
    topics = {name: OUTPUTS[name] for name in ('/depth/points', '/depth/relative')}
    results_of(peer, lambda: camera.send(picture()), topics)
    info = CameraInfo(width=64, height=48, k=k)

    def has_problem(seen):  # with each image: the diagnostic of the first may have arrived already
        again = camera.image(picture())
        info.header = again.header
        camera.infos.publish(info)
        camera.images.publish(again)
        return 'CameraInfo.K' in seen['message']

    counters = peer.counters_when(has_problem)
    assert (counters['level'], 'CameraInfo.K' in counters['message']) == (
        DiagnosticStatus.ERROR,
        True,
    )
    image = camera.image(picture())
    camera.images.publish(image)  # it is matched with the last info
    assert peer.result('/depth/relative', image).header == image.header
    peer.spin(0.3)  # time for points, which must not arrive
    assert peer.with_stamp('/depth/points', image) is None
    answer(peer, camera, '/depth/points', picture())


def test_after_a_change_of_resolution_points_wait_for_the_new_camera_info(peer, camera):
    topics = {name: OUTPUTS[name] for name in ('/depth/points', '/depth/relative')}
    results_of(peer, lambda: camera.send(picture()), topics)
    errors = peer.counters().get('last error')
    image = camera.image(picture(24, 32))
    camera.images.publish(image)
    assert peer.result('/depth/relative', image).header == image.header

    def has_problem(seen):  # with each image: the diagnostic of the first may have arrived already
        camera.images.publish(camera.image(picture(24, 32)))
        return '32 x 24' in seen['message']

    counters = peer.counters_when(has_problem)
    assert "no camera_info for frame 'lens' and 32 x 24 pixels" in counters['message']
    assert (counters['level'], counters.get('last error')) == (DiagnosticStatus.WARN, errors)
    peer.spin(0.3)  # time for points, which must not arrive
    assert peer.with_stamp('/depth/points', image) is None
    answer(peer, camera, '/depth/points', picture(24, 32))


def test_an_image_without_a_frame_gives_images_but_no_points(peer, camera):
    topics = {name: OUTPUTS[name] for name in ('/depth/points', '/depth/relative')}
    results_of(peer, lambda: camera.send(picture()), topics)
    image = camera.image(picture(), frame_id='')
    camera.images.publish(image)
    assert peer.result('/depth/relative', image).header == image.header
    peer.spin(0.3)  # time for points, which must not arrive
    assert peer.with_stamp('/depth/points', image) is None


def test_a_frame_that_is_received_twice_is_processed_once(peer, camera):
    answer(peer, camera, '/depth/relative', picture())
    name = 'dropped: stamp_not_later'
    before = int(peer.counters().get(name, 0))
    image = camera.image(picture())
    for _ in range(3):
        camera.images.publish(image)
    peer.result('/depth/relative', image)
    after = peer.counters_when(lambda seen: int(seen.get(name, 0)) >= before + 2)
    assert int(after[name]) == before + 2
    later = camera.send(picture())
    peer.result('/depth/relative', later)
    got = [message.header for message in peer.received['/depth/relative']]
    assert (got.count(image.header), got[-1]) == (1, later.header)


def test_a_disabled_node_drops_frames_until_it_is_enabled_again(peer, camera):
    answer(peer, camera, '/depth/relative', picture())
    assert peer.call(SetBool, '/perception/enable', SetBool.Request(data=False)).success
    name = 'dropped: disabled'
    before = int(peer.counters().get(name, 0))
    dropped = camera.send(picture())
    peer.counters_when(lambda seen: int(seen.get(name, 0)) > before)
    assert peer.call(SetBool, '/perception/enable', SetBool.Request(data=True)).success
    answer(peer, camera, '/depth/relative', picture())
    assert peer.with_stamp('/depth/relative', dropped) is None


def test_no_vga_frame_at_10_hz_is_lost(peer, camera):
    """At 10 Hz or the rate of the machine: the next frame is sent after the output."""
    rgb = picture(480, 640)
    answer(peer, camera, '/depth/relative', rgb)
    for _ in range(30):
        start = time.monotonic()
        peer.result('/depth/relative', camera.send(rgb))
        peer.spin(max(0.0, 0.1 - (time.monotonic() - start)))


def test_a_best_effort_camera_is_received_too(peer):
    """A reliable subscription would receive only a warning."""
    camera = FakeCamera(peer, BEST_EFFORT)
    connect(peer, camera)
    _, depth = answer(peer, camera, '/depth/relative', picture(24, 32))
    assert (depth.height, depth.width) == (24, 32)


# ---- Configuration: separate processes ---------------------------------------------------


@pytest.fixture
def broken_checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """Copy the checkpoint with the first half of each weights file."""
    for path in tiny_checkpoint.rglob('*'):
        if path.is_file():
            data = path.read_bytes()
            copy = tmp_path / 'broken' / path.relative_to(tiny_checkpoint)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(data[: len(data) // 2] if path.suffix == '.safetensors' else data)
    return tmp_path / 'broken'


def test_lifecycle_services_configure_a_node_and_a_bad_checkpoint_changes_nothing(
    tiny_checkpoint, broken_checkpoint, tmp_path
):
    arguments = ros_arguments(
        autostart=False, checkpoint='/no/such/folder', device='cpu', diagnostics_rate_hz=10.0
    )
    with running(tmp_path / 'log', 'perception', *arguments, '-r', '__ns:=/front') as process:
        peer = Peer()
        try:
            process.wait_for_output('waiting for lifecycle transitions')
            assert not change(peer, Transition.TRANSITION_CONFIGURE)
            assert state(peer) == State.PRIMARY_STATE_UNCONFIGURED
            assert '/no/such/folder' in process.output

            assert set_parameter(peer, 'checkpoint', str(broken_checkpoint)) == ''
            assert not change(peer, Transition.TRANSITION_CONFIGURE)
            assert state(peer) == State.PRIMARY_STATE_UNCONFIGURED
            assert str(broken_checkpoint) in process.output
            counters = peer.counters_when(
                lambda seen: str(broken_checkpoint) in seen['last error'], '/front/perception'
            )
            assert str(broken_checkpoint) in counters['last error']

            assert 'choose one of' in set_parameter(peer, 'precision', 'fp8')
            assert set_parameter(peer, 'checkpoint', str(tiny_checkpoint)) == ''
            assert set_parameter(peer, 'image_transport', 'compressed') == ''
            assert change(peer, Transition.TRANSITION_CONFIGURE)
            assert state(peer) == State.PRIMARY_STATE_INACTIVE
            assert change(peer, Transition.TRANSITION_ACTIVATE)
            compressed_image_is_processed(peer)
            assert set_parameter(peer, 'use_sim_time', True) == ''  # time jumps to zero
            counters = peer.counters_when(lambda seen: 'time jumps' in seen, '/front/perception')
            assert 'time jumps' in counters
            assert set_parameter(peer, 'use_sim_time', False) == ''
            assert change(peer, Transition.TRANSITION_DEACTIVATE)
            assert change(peer, Transition.TRANSITION_CLEANUP)
            assert state(peer) == State.PRIMARY_STATE_UNCONFIGURED
            assert peer.node.count_publishers('/front/depth/relative') == 0
        finally:
            peer.close()
        assert process.end(signal.SIGTERM) == 0
        assert 'Traceback' not in process.output
        assert process.output.count('[ERROR]') == 2


def compressed_image_is_processed(peer: Peer) -> None:
    images = peer.node.create_publisher(CompressedImage, '/front/image_raw/compressed', 5)
    peer.until(images.get_subscription_count)
    smooth, seconds = cv2.GaussianBlur(picture(), (5, 5), 0), itertools.count(5)

    def send() -> CompressedImage:
        header = CameraInfo().header
        header.frame_id, header.stamp.sec = 'lens', next(seconds)
        images.publish(message := jpeg_message(smooth, header))
        return message

    sent, [result] = results_of(peer, send, {'/front/depth/relative': Image})
    assert result.header == sent.header
    assert (result.height, result.width) == (48, 64)


@pytest.fixture
def exact_checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """Copy the checkpoint without padding, so that small images are too small for the network."""
    folder = shutil.copytree(tiny_checkpoint, tmp_path / 'exact')
    file = folder / 'checkpoint.yaml'
    file.write_text(file.read_text().replace('resize: pad', 'resize: exact'))
    return folder


def test_a_wrong_start_ends_with_one_error_line_and_an_exit_code(tmp_path, exact_checkpoint):
    """A checkpoint that cannot be loaded: exit code 1; a wrong parameter: 2."""
    wrong = {
        'checkpoint': ({'checkpoint': '/no/such/folder'}, 1, ['/no/such/folder']),
        'parameter': ({'precision': 'fp8'}, 2, ["no choice 'fp8'; choose one of: auto, fp32"]),
        'size': (
            {'checkpoint': exact_checkpoint, 'device': 'cpu', 'long_side_px': 4},
            1,
            ['configuration failed: RuntimeError: ', 'try device: cpu, another long_side_px'],
        ),
    }
    processes = {
        name: Process(tmp_path / f'{name}.log', 'perception', *ros_arguments(**values))
        for name, (values, _, _) in wrong.items()
    }
    for name, (_, code, words) in wrong.items():
        process = processes[name]
        assert (name, process.wait()) == (name, code)
        assert [word for word in words if word not in process.output] == []
        assert process.output.count('[ERROR]') == 1
        assert 'Traceback' not in process.output


def test_a_silent_topic_is_explained(tiny_checkpoint, tmp_path, peer_alone):
    """First only a similar topic is published, then this one with incompatible QoS."""
    arguments = ros_arguments(checkpoint=tiny_checkpoint, qos_reliability='reliable')
    FakeCamera(peer_alone, topic='/cam/image_raw')
    with running(tmp_path / 'log', 'perception', *arguments) as process:
        process.wait_for_output('no image on /image_raw for 5 s: it has no publisher')
        assert (
            'topics with images: /cam/image_raw\n' in process.output
        )  # and none of its own topics
        FakeCamera(peer_alone, BEST_EFFORT)
        process.wait_for_output('does not offer the RELIABILITY of this subscription')
        assert 'set qos_reliability: auto' in process.output


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_start_up_ends_the_node_quietly(tiny_checkpoint, tmp_path, number):
    """While it imports torch, and while it loads the model."""
    moments = {
        'imports': lambda p: 'libtorch' in Path(f'/proc/{p.process.pid}/maps').read_text(),
        'loads': lambda p: f'read {tiny_checkpoint}' in p.output,
    }
    for name, has_come in moments.items():
        arguments = ros_arguments(checkpoint=tiny_checkpoint)
        process = Process(tmp_path / name, 'perception', *arguments, anew=name == 'imports')
        while not has_come(process) and process.process.poll() is None:
            time.sleep(0.02)
        assert process.end(number) == 0
        assert 'Traceback' not in process.output


def test_an_image_that_fails_in_the_network_is_reported_and_the_next_one_is_processed(
    exact_checkpoint, tmp_path, peer_alone
):
    arguments = ros_arguments(checkpoint=exact_checkpoint, device='cpu', diagnostics_rate_hz=10.0)
    with running(tmp_path / 'log', 'perception', *arguments) as process:
        process.wait_for_output('subscribed to /image_raw')
        camera = FakeCamera(peer_alone)
        connect(peer_alone, camera)
        answer(peer_alone, camera, '/depth/relative', picture())
        name = 'dropped: failed'
        camera.send(picture(1, 640))
        seen = peer_alone.counters_when(lambda seen: name in seen)
        assert 'image dropped: RuntimeError: ' in seen['last error']
        answer(peer_alone, camera, '/depth/relative', picture())
        assert process.end() == 0
        assert 'Traceback' not in process.output


# Memory can be inspected only inside the process, and the process of pytest must not have the
# default context of ROS: its forked children hang. Without automatic garbage collection, which
# might free the model by chance.
CLEANUP = """
import gc, sys, weakref
import rclpy
from sd_perception_ros.ros.perception_node import PerceptionNode

rclpy.init(args=sys.argv)
node = PerceptionNode()
gc.disable()
node.trigger_configure()
weights = weakref.ref(next(node._serving.current.engine._models[0].model.parameters()))
print('before:', weights() is not None)
node.trigger_cleanup()
print('after:', weights() is not None)
node.close()
node.destroy_node()
rclpy.shutdown()
"""


def test_cleanup_frees_the_model_before_another_one_is_loaded(tiny_checkpoint, tmp_path):
    arguments = ros_arguments(checkpoint=tiny_checkpoint, device='cpu')
    process = Process(tmp_path / 'log', *arguments, code=CLEANUP)
    assert process.wait() == 0, process.output
    lines = [line for line in process.output.splitlines() if not line.startswith('[')]
    assert lines == ['before: True', 'after: False']


FAILING = """
import sys
import rclpy
from sd_perception_ros.ros import perception_node
from sd_perception_ros.ros.pipeline import FramePipeline

def fail(*arguments, **options):
    raise ERROR

rclpy.init(args=sys.argv)
node = perception_node.PerceptionNode()
if WHERE == 'load':
    perception_node.load = fail
print('configure:', node.trigger_configure().name, node._state_machine.current_state[1])
if WHERE == 'open':
    FramePipeline.open = fail
    print('activate:', node.trigger_activate().name, node._state_machine.current_state[1])
node.close()
node.destroy_node()
rclpy.shutdown()
"""
ERRORS = {
    'SafetensorError: no header': "__import__('safetensors').SafetensorError('no header')",
    'UnpicklingError: stack': "__import__('pickle').UnpicklingError('stack')",
    'YAMLError: line 3': "__import__('yaml').YAMLError('line 3')",
    'Exception: odd': "Exception('odd')",
    'KeyError': 'KeyError(3)',
}


@pytest.mark.parametrize('words', ERRORS)
@pytest.mark.parametrize(
    ('where', 'lines'),
    [
        ('load', ['configure: FAILURE unconfigured']),
        ('open', ['configure: SUCCESS inactive', 'activate: FAILURE inactive']),
    ],
)
def test_any_exception_in_a_transition_is_one_line_and_a_lifecycle_state(
    tiny_checkpoint, tmp_path, words, where, lines
):
    code = FAILING.replace('ERROR', ERRORS[words]).replace('WHERE', repr(where))
    arguments = ros_arguments(checkpoint=tiny_checkpoint, device='cpu')
    process = Process(tmp_path / 'log', *arguments, code=code)
    assert process.wait() == 0, process.output
    printed = process.output.splitlines()
    assert [line for line in printed if not line.startswith('[')] == lines
    [error] = [line for line in printed if '[ERROR]' in line]
    assert f' failed: {words}' in error


# ---- While a frame is processed: the tiny model, on an image so large that it takes a second ----


@contextlib.contextmanager
def slow_node(checkpoint: Path, log: Path, **parameters: object) -> Iterator[Process]:
    arguments = ros_arguments(
        checkpoint=checkpoint,
        device='cpu',
        long_side_px=1024,
        threads=1,
        diagnostics_rate_hz=10.0,
        **parameters,
    )
    with running(log, 'perception', *arguments, '-r', '__ns:=/front') as process:
        process.wait_for_output('subscribed to /front/image_raw')
        yield process


def pending(counters: dict[str, Any]) -> int:
    """Count the received frames that are neither processed nor dropped yet."""
    ended = [int(counters[name]) for name in counters if name.startswith(('processed', 'dropped'))]
    return int(counters.get('received', 0)) - sum(ended)


def send_large_image(peer: Peer, camera: FakeCamera) -> Image:
    """Send an image; return its message while the node is processing it."""
    if '/front/depth/relative' not in peer.received:
        peer.listen('/front/depth/relative', Image)
    for _ in range(20):
        count = int(peer.counters(NODE).get('received', 0)) + 1
        image = camera.send(picture())
        seen = peer.counters_when(
            lambda seen, count=count: int(seen.get('received', 0)) >= count, NODE, 20.0
        )
        if pending(seen) == 1:
            return image
    raise AssertionError('no image was seen in processing')


@pytest.fixture
def front_camera(peer_alone: Peer) -> FakeCamera:
    return FakeCamera(peer_alone, topic='/front/image_raw')


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_inference_ends_the_node_quietly(
    tiny_checkpoint, tmp_path, peer_alone, front_camera, number
):
    with slow_node(tiny_checkpoint, tmp_path / 'log') as process:
        send_large_image(peer_alone, front_camera)
        assert process.end(number) == 0
        assert 'Traceback' not in process.output


def test_a_deactivated_node_still_publishes_the_frame_in_processing(
    tiny_checkpoint, tmp_path, peer_alone, front_camera
):
    with slow_node(tiny_checkpoint, tmp_path / 'log') as process:
        image = send_large_image(peer_alone, front_camera)
        assert change(peer_alone, Transition.TRANSITION_DEACTIVATE)
        assert state(peer_alone) == State.PRIMARY_STATE_INACTIVE
        assert peer_alone.result('/front/depth/relative', image).header == image.header
        assert process.end(signal.SIGINT) == 0
        assert 'Traceback' not in process.output


def test_a_frame_that_becomes_too_old_while_it_waits_is_dropped(
    tiny_checkpoint, tmp_path, peer_alone, front_camera
):
    """Two frames arrive in time; during the first, the simulated clock advances by 5 s."""
    peer, topic, name = peer_alone, '/front/depth/relative', 'dropped: too_old'
    clock = peer.node.create_publisher(Clock, '/clock', 1)

    def counters_at(second: int) -> dict[str, Any]:
        """Set the clock, and return the first diagnostic of the node with this time."""

        def knows(seen: dict[str, Any]) -> bool:
            clock.publish(Clock(clock=Time(sec=second)))
            return seen['second'] == second

        return peer.counters_when(knows, NODE)

    parameters = {'max_frame_age_s': 0.4, 'use_sim_time': True}
    with slow_node(tiny_checkpoint, tmp_path / 'log', **parameters) as process:
        for second in range(100, 200, 10):
            dropped = int(counters_at(second).get(name, 0))
            moments = (Time(sec=second, nanosec=nanosec) for nanosec in itertools.count(1))
            front_camera.now = lambda moments=moments: next(moments)
            first, second_one = send_large_image(peer, front_camera), front_camera.send(picture())
            peer.counters_when(lambda seen: pending(seen) == 2, NODE, 2.0)
            if pending(counters_at(second + 5)) == 2:
                break  # else the first frame was finished too early
        seen = peer.counters_when(lambda seen: pending(seen) == 0, NODE)
        assert int(seen[name]) == dropped + 1
        assert peer.result(topic, first)
        assert peer.with_stamp(topic, second_one) is None
        assert process.end(signal.SIGINT) == 0
