"""The camera node and `up` as real processes, and the sources that they replay."""

from __future__ import annotations

from collections.abc import Iterator
import json
import os
from pathlib import Path
import re
import signal
import subprocess
import sys

import cv2
import numpy as np
import pytest
from ros_helpers import Peer, picture, pixels, Process, ros_arguments, running
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from sd_perception_ros.__main__ import COMMANDS
from sd_perception_ros.compressed_images import compressed_to_rgb
from sd_perception_ros.geometry.pinhole import camera_from_fov
from sd_perception_ros.ros.replay.camera_node import encode, published_size, resize
from sd_perception_ros.ros.replay.sources import open_source


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Write three images of different grey levels, 64 x 48."""
    folder = tmp_path / 'pictures'
    folder.mkdir()
    for index in range(3):
        cv2.imwrite(str(folder / f'{index}.png'), np.full((48, 64, 3), 50 * index, np.uint8))
    (folder / 'notes.txt').write_text('not an image')
    return folder


@pytest.fixture
def sequence(tmp_path: Path) -> Path:
    """Write a sequence of two frames with intrinsics, 5 Hz."""
    folder = tmp_path / 'sequence'
    (folder / 'frames').mkdir(parents=True)
    about = {'rate_hz': 5, 'frame_id': 'eye', 'license': 'CC0-1.0', 'attribution': 'test'}
    (folder / 'sequence.json').write_text(json.dumps(about))
    for key in ('000000_0', '000001_0'):
        cv2.imwrite(str(folder / 'frames' / f'{key}.image.png'), picture()[..., ::-1])
        cv2.imwrite(str(folder / 'frames' / f'{key}.depth.png'), np.zeros((48, 64), np.uint16))
        values = {'fx': 50, 'fy': 51, 'cx': 31, 'cy': 23, 'width': 64, 'height': 48}
        (folder / 'frames' / f'{key}.camera.json').write_text(
            json.dumps(values | {'camera_height_m': 1.0, 'pitch_deg': 3.0})
        )
    return folder


@pytest.fixture
def peer() -> Iterator[Peer]:
    made = Peer()
    yield made
    made.close()


def test_images_of_a_folder_are_sorted_by_name(pictures):
    source = open_source(str(pictures))
    assert [source.frame(i).rgb[0, 0, 0] for i in range(len(source))] == [0, 50, 100]
    assert source.frame(0).camera is None


def test_a_sequence_has_intrinsics_rate_and_frame_id(sequence):
    source = open_source(str(sequence))
    assert (len(source), source.rate_hz, source.frame_id) == (2, 5.0, 'eye')
    frame = source.frame(1)
    np.testing.assert_array_equal(frame.rgb, picture())
    assert (frame.camera.fx, frame.camera.cy, frame.camera.width) == (50.0, 23.0, 64)


def test_a_video_has_its_frames_in_order_and_again_from_the_start(tmp_path):
    path = tmp_path / 'video.avi'
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*'MJPG'), 25.0, (64, 48))
    for level in (0, 100, 200):
        writer.write(np.full((48, 64, 3), level, np.uint8))
    writer.release()
    source = open_source(str(path))
    levels = [source.frame(i).rgb.mean() for i in (0, 1, 2, 0)]
    np.testing.assert_allclose(levels, [0, 100, 200, 0], atol=3)
    assert source.rate_hz == 25.0


def test_photographs_of_scikit_image_are_installed():
    source = open_source('skimage')
    sizes = {source.frame(i).rgb.shape for i in range(len(source))}
    assert len(source) >= 4
    assert all(height >= 300 and width >= 400 for height, width, _ in sizes)


@pytest.mark.parametrize(
    ('files', 'words'),
    [
        ({}, 'without images'),
        ({'sequence.json': '{'}, 'cannot be read as JSON'),
        ({'sequence.json': '[]'}, 'must contain a JSON object'),
        ({'sequence.json': '{}'}, 'has no <key>.image'),
        ({'sequence.json': '{"rate_hz": "fast"}'}, 'rate_hz must be a number'),
        ({'sequence.json': '{"rate_hz": -5}'}, 'rate_hz must be a number from 0.001 to 1000'),
        ({'sequence.json': '{"rate_hz": NaN}'}, 'or 0 for the default, got nan'),
    ],
)
def test_a_folder_that_cannot_be_replayed_is_an_error(tmp_path, files, words):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=words):
        open_source(str(tmp_path))


def test_a_file_that_is_not_a_video_is_refused(tmp_path):
    (tmp_path / 'video.mp4').write_text('nothing')
    with pytest.raises(ValueError, match=r'cannot read .* as a video; convert it'):
        open_source(str(tmp_path / 'video.mp4'))


@pytest.mark.parametrize('name', ['~nobody_of_this_name/pictures', 'a' * 300])
def test_a_path_that_cannot_exist_is_reported_as_missing(name):
    with pytest.raises(ValueError, match='does not exist'):
        open_source(name)


def test_an_image_with_a_name_that_is_not_utf_8_is_replayed_and_a_video_refused(tmp_path):
    cv2.imwrite(str(tmp_path / 'a.png'), np.full((4, 6, 3), 9, np.uint8))
    (tmp_path / 'a.png').rename(tmp_path / os.fsdecode(b'\xff.png'))
    (tmp_path / '._a.png').write_bytes(b'a companion file of macOS')
    source = open_source(str(tmp_path))
    assert len(source) == 1
    assert source.frame(0).rgb.shape == (4, 6, 3)
    video = tmp_path / os.fsdecode(b'\xff.mp4')
    video.write_bytes(b'nothing')
    with pytest.raises(ValueError, match=r'name in UTF-8, got .*\\xff.mp4; rename it'):
        open_source(str(video))


def test_an_image_above_the_pixel_limit_of_opencv_is_refused(tmp_path):
    """Only its header has the size: 60000 x 60000."""
    data = cv2.imencode('.bmp', np.zeros((4, 4, 3), np.uint8))[1]
    data[18:26].view('<i4')[:] = 60_000
    (tmp_path / 'huge.bmp').write_bytes(data.tobytes())
    with pytest.raises(ValueError, match=r'huge\.bmp: expected an image that OpenCV can decode'):
        open_source(str(tmp_path)).frame(0)


@pytest.mark.parametrize(
    'wrong', [{'width': 0}, {'width': float('inf')}, {'fx': float('nan')}, {'fy': -1.0}]
)
def test_an_error_names_the_impossible_camera_file_of_a_sequence(sequence, wrong):
    file = sequence / 'frames' / '000001_0.camera.json'
    file.write_text(json.dumps(json.loads(file.read_text()) | wrong))
    source = open_source(str(sequence))
    assert source.frame(0).camera.width == 64
    with pytest.raises(ValueError, match=r'000001_0\.camera\.json must have'):
        source.frame(1)


@pytest.mark.parametrize(
    ('asked', 'expected'),
    [((0, 0), (64, 48)), ((32, 0), (32, 24)), ((0, 12), (16, 12)), ((10, 10), (10, 10))],
)
def test_a_missing_side_keeps_the_aspect_ratio(asked, expected):
    assert published_size(64, 48, *asked) == expected


def test_intrinsics_are_resized_with_their_image():
    rgb, camera = resize(picture(), camera_from_fov(64, 48, 90.0), 32, 24)
    assert rgb.shape == (24, 32, 3)
    assert camera == camera_from_fov(32, 24, 90.0)


def test_encodings_order_the_channels():
    rgb = np.array([[[10, 20, 30]]], np.uint8)
    assert encode(rgb, 'bgr8').tolist() == [[[30, 20, 10]]]
    assert encode(rgb, 'mono8').shape == (1, 1)


def test_every_image_is_sent_once_with_its_camera_info_and_then_the_node_ends(
    pictures, tmp_path, peer
):
    for topic, kind in (
        ('/image_raw', Image),
        ('/camera_info', CameraInfo),
        ('/image_raw/compressed', CompressedImage),
    ):
        peer.listen(topic, kind)
    arguments = ros_arguments(
        source=pictures,
        loop=False,
        rate_hz=20,
        compressed=True,
        wait_for_subscribers=True,
        horizontal_fov_deg=90.0,
        encoding='bgr8',
    )
    with running(tmp_path / 'log', 'camera', *arguments) as process:
        peer.until(lambda: process.process.poll() is not None)
        assert process.wait() == 0
        peer.until(lambda: len(peer.received['/image_raw']) == 3)
        assert 'end of the source: 3 frames sent' in process.output
    images, infos = peer.received['/image_raw'], peer.received['/camera_info']
    assert [pixels(m)[0, 0, 0] for m in images] == [0, 50, 100]
    assert {(m.encoding, m.header.frame_id) for m in images} == {('bgr8', 'camera_optical_frame')}
    assert images[0].header in [info.header for info in infos]
    assert (infos[0].k[0], infos[0].k[2], infos[0].width) == (pytest.approx(32.0), 31.5, 64)
    for msg in peer.received['/image_raw/compressed']:
        assert compressed_to_rgb(msg).shape == (48, 64, 3)


def test_a_loop_continues_until_a_signal(sequence, tmp_path, peer):
    peer.listen('/image_raw', Image)
    with running(tmp_path / 'log', 'camera', *ros_arguments(source=sequence, rate_hz=50)) as node:
        for _ in range(5):
            assert peer.next('/image_raw').header.frame_id == 'eye'
        assert node.end(signal.SIGTERM) == 0
        assert 'Traceback' not in node.output


def test_a_path_that_is_not_utf_8_ends_with_one_line(pictures, tmp_path):
    """ROS takes parameters in UTF-8 alone."""
    odd = tmp_path / os.fsdecode(b'b\xff\xfed')
    odd.mkdir()
    for words in (
        ['camera', '--ros-args', '-p', f'source:={odd}'],
        ['perception', '--ros-args', '-p', f'checkpoint:={odd}'],
        ['up', '-p', f'camera:source:={odd}'],
        ['up', '--params-file', f'{odd}/own.yaml'],
    ):
        process = Process(tmp_path / 'log', *words, anew=True)
        assert process.wait() == 2
        assert r'b\xff\xfed' in process.output
        if words[-1] != f'{odd}/own.yaml':
            assert 'is not UTF-8, and ROS takes nothing else; rename' in process.output
        assert 'Traceback' not in process.output
        assert len(process.output.splitlines()) == 1


FAILING = """
import sys
from sd_perception_ros.ros.node.shutdown import run_node
from sd_perception_ros.ros.replay.camera_node import CameraNode

class Failing(CameraNode):
    def _has_subscribers(self):
        raise ERROR

sys.exit(run_node(Failing, 'camera', sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ('error', 'words'),
    [
        ("__import__('safetensors').SafetensorError('no header')", 'SafetensorError: no header'),
        ("__import__('yaml').YAMLError('line 3')", 'YAMLError: line 3'),
        ("Exception('two\\nlines')", 'Exception: two lines'),
        ('StopIteration()', 'RuntimeError: coroutine raised StopIteration'),
        ("ValueError('b\\udcff')", r'ValueError: b\xff'),
    ],
)
def test_any_exception_in_a_callback_ends_the_node_with_one_line(pictures, tmp_path, error, words):
    arguments = ros_arguments(source=pictures, wait_for_subscribers=True)
    process = Process(tmp_path / 'log', *arguments, code=FAILING.replace('ERROR', error))
    assert process.wait() == 1
    assert f'ended by {words}' in process.output
    assert process.output.count('[FATAL]') == 1
    assert 'Traceback' not in process.output


@pytest.mark.parametrize(
    ('values', 'words'),
    [
        ({'source': '/no/such/place'}, "source '/no/such/place' does not exist"),
        ({'source': 'skimage', 'encoding': 'rgb9'}, 'choose one of: rgb8, bgr8, mono8'),
        ({'rate_hz': 1e-12}, 'rate_hz must be at least 0.001, or 0 for the rate of the source'),
    ],
)
def test_a_wrong_start_ends_with_one_error_line_and_code_2(tmp_path, values, words):
    process = Process(tmp_path / 'log', 'camera', *ros_arguments(**values))
    assert process.wait() == 2
    assert words in process.output
    assert process.output.count('[ERROR]') == 1
    assert 'Traceback' not in process.output


@pytest.mark.parametrize('delay_s', [0.0, 0.4, 0.7, 1.0])
def test_up_ends_without_traceback_at_any_time_of_a_signal(pictures, tmp_path, delay_s):
    """`up` blocks signals for its children until their handlers are set."""
    params = tmp_path / 'params.yaml'
    params.write_text(f'camera:\n  ros__parameters:\n    source: {pictures}\n')
    process = Process(
        tmp_path / 'log', 'up', '--params-file', str(params), '--without', 'perception'
    )
    with pytest.raises(subprocess.TimeoutExpired):
        process.process.wait(delay_s)
    assert process.end(signal.SIGINT) == 0
    assert 'Traceback' not in process.output


def test_up_computes_depth_and_both_nodes_end_by_sigterm(
    sequence, tiny_checkpoint, tmp_path, peer
):
    params = tmp_path / 'params.yaml'
    params.write_text(
        f'/**/camera:\n  ros__parameters:\n    source: {sequence}\n    rate_hz: 10\n'
        f'/**/perception:\n  ros__parameters:\n    checkpoint: {tiny_checkpoint}\n'
    )
    peer.listen('/front/depth/relative', Image)
    arguments = ('--params-file', str(params), '--namespace', 'front', '-p', 'camera:width:=32')
    with running(tmp_path / 'log', 'up', *arguments) as process:
        depth = peer.next('/front/depth/relative')
        assert (depth.header.frame_id, depth.width, depth.height) == ('eye', 32, 24)
        assert process.end(signal.SIGTERM) == 0
        assert 'Traceback' not in process.output


def test_up_ends_with_the_exit_code_of_the_failed_node(tmp_path):
    params = tmp_path / 'params.yaml'
    params.write_text('camera:\n  ros__parameters:\n    source: /no/such/place\n')
    process = Process(tmp_path / 'log', 'up', '--params-file', str(params))
    assert process.wait() == 2
    assert "source '/no/such/place' does not exist" in process.output
    assert 'Traceback' not in process.output


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (['camra'], "unknown command 'camra'; did you mean 'camera'?"),
        (['up', '--params-file', '/no/such/file.yaml'], 'file.yaml does not exist'),
        (['camera', '--ros-args', '--params-file', '/no/file.yaml'], '/no/file.yaml'),
        (['camera', 'skimage'], "expected ROS arguments, got 'skimage'"),
    ],
)
def test_a_wrong_command_line_gives_one_error_line_and_code_2(tmp_path, arguments, words):
    process = Process(tmp_path / 'log', *arguments)
    assert process.wait() == 2
    assert words in process.output
    assert 'Traceback' not in process.output


@pytest.mark.parametrize(
    ('package', 'command', 'words'),
    [
        ('torch', 'perception', 'python -m pip install torch (requirements/core.txt'),
        ('diffusers', 'perception', 'python -m pip install diffusers (requirements/core.txt'),
        ('cv2', 'camera', 'python -m pip install opencv-python-headless; requirements/core.txt'),
        ('embreex', 'synthesize', 'python -m pip install embreex; requirements/train.txt'),
        ('rclpy', 'camera', 'ROS 2 was not found'),
    ],
)
def test_a_missing_package_gives_one_line_with_the_install_command(
    tmp_path, package, command, words
):
    hide = f'import sys; sys.modules[{package!r}] = None'  # None: ImportError
    code = f'{hide}; from sd_perception_ros.__main__ import main; sys.exit(main([{command!r}]))'
    done = subprocess.run(
        [sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (1, '')
    [line] = done.stderr.splitlines()
    # The node exists before its model is loaded, and logs the error.
    start = r'\[ERROR\] .* configuration failed: ' if command == 'perception' else 'error: '
    assert re.match(start, line)
    assert words in line


def test_help_lists_every_command():
    command = [sys.executable, '-m', 'sd_perception_ros', '--help']
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert [name for name in COMMANDS if f'\n  {name} ' not in done.stdout] == []
