"""Whatever keeps an output silent is one line in the log that says what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
import time
from typing import Any

from builtin_interfaces.msg import Time
import pytest
from ros_helpers import (
    connect,
    FakeCamera,
    lens_of,
    Peer,
    picture,
    Process,
    RELIABLE,
    ros_arguments,
    running,
    serving,
)
from sensor_msgs.msg import CompressedImage, Image, PointCloud2

from sd_perception_ros.ros.messages.camera_info import info_from_camera
from sd_perception_ros.ros.node.logs import PersistentWarning


@pytest.fixture(scope='module')
def node(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    with serving(
        tmp_path_factory.mktemp('node') / 'log',
        checkpoint=tiny_checkpoint,
        device='cpu',
        max_frame_age_s=3.0,
        depth__scale__source='depth',
    ) as process:
        yield process


@pytest.fixture
def camera(peer: Peer) -> FakeCamera:
    made = FakeCamera(peer)
    peer.listen('/depth/points', PointCloud2)
    connect(peer, made)
    return made


def stream_until(
    peer: Peer, node: Process, words: str, send: Callable[[], Any], since: int = -1
) -> str:
    """Send at 5 Hz until the node logs some words after now, or since then; return that line."""
    before = len(node.output) if since < 0 else since
    deadline = time.monotonic() + 60
    while words not in node.output[before:] and time.monotonic() < deadline:
        send()
        peer.spin(0.2)
    lines = [line for line in node.output[before:].splitlines() if words in line]
    assert lines, node.output[before:]
    assert '[WARN]' in lines[0]
    return lines[0]


@pytest.mark.parametrize(
    ('info_frame', 'image_frame', 'words'),
    [
        ('other', 'lens', "the one received is of frame 'other', set the same frame_id"),
        ('', 'lens', "the one received is of frame '', set the same frame_id"),
        ('', '', 'have an empty frame_id: points, scan, markers and keypoints are not published'),
    ],
)
def test_a_camera_info_of_another_frame_is_reported_with_its_frame(
    node, peer, camera, info_frame, image_frame, words
):
    def send() -> None:
        image = camera.image(picture(), frame_id=info_frame)
        camera.infos.publish(info_from_camera(lens_of(64, 48), image.header))
        image.header.frame_id = image_frame
        camera.images.publish(image)

    stream_until(peer, node, words, send)


def test_metres_that_are_withheld_are_reported_with_the_reason(node, peer, camera):
    line = stream_until(peer, node, 'no metric depth: ', lambda: camera.send(picture()), since=0)
    assert 'no message was received on /reference/depth' in line
    assert 'metric topics are silent (depth.scale.source: depth)' in line


def test_frames_that_are_too_old_or_not_later_are_reported_with_the_time(node, peer, camera):
    now = camera.now

    def old() -> None:
        stamp = now()
        camera.now = lambda: Time(sec=stamp.sec - 100, nanosec=stamp.nanosec)
        camera.send(picture())

    line = stream_until(peer, node, 'are dropped, too_old', old)
    assert 'the stamp is 10' in line  # 100 s or a little more
    assert 'more than max_frame_age_s = 3; synchronize the clocks' in line
    same = now()
    camera.now = lambda: same
    line = stream_until(peer, node, 'are dropped, stamp_not_later', lambda: camera.send(picture()))
    assert 'the stamp is 0.000 s before that of the previous frame' in line
    assert 'drop_duplicate_stamps: false' in line


def test_another_type_on_the_topic_is_reported_with_the_transport(tiny_checkpoint, tmp_path):
    peer = Peer()
    peer.node.create_publisher(CompressedImage, '/jpeg', RELIABLE)
    peer.node.create_publisher(Image, '/raw', RELIABLE)
    for transport, rule, words in (
        ('raw', 'image_raw:=/jpeg', 'set image_transport: compressed and remap'),
        ('compressed', 'image_raw/compressed:=/raw', 'set image_transport: raw and remap'),
    ):
        arguments = ros_arguments(
            checkpoint=tiny_checkpoint, device='cpu', image_transport=transport
        )
        names = ('-r', rule, '-r', '__ns:=/other')
        with running(tmp_path / transport, 'perception', *arguments, *names) as process:
            process.wait_for_output(words)
    peer.close()


class Lines:
    """A logger that keeps what it gets."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def warning(self, text: str) -> None:
        self.lines.append(text)


def test_a_problem_is_logged_when_it_lasts_and_again_when_it_changes(monkeypatch):
    now_s, logger = [100.0], Lines()
    monkeypatch.setattr(time, 'monotonic', lambda: now_s[0])
    warning = PersistentWarning(logger)
    for now_s[0] in (100.0, 100.5):
        warning.report('late by 1 s')
    warning.clear()
    for now_s[0] in (101.0, 101.9):
        warning.report('late by 2 s')
    assert logger.lines == []
    for now_s[0] in (102.0, 103.0, 104.0):
        warning.report(f'late by {now_s[0]} s')
    assert logger.lines == ['late by 102.0 s']
    warning.report('of another frame')
    assert logger.lines == ['late by 102.0 s', 'of another frame']
    for second in range(105, 136):
        now_s[0] = float(second)
        warning.report('of another frame')
    assert logger.lines[2:] == ['of another frame']
