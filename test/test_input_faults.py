"""Input that drivers get wrong, and conventions of ROS, against a real node over DDS."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus
import numpy as np
import pytest
from rcl_interfaces.msg import ParameterType
from rcl_interfaces.srv import GetParameters, ListParameters
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from ros_helpers import (
    connect,
    FakeCamera,
    lens_of,
    Peer,
    picture,
    Process,
    RELIABLE,
    results_of,
    ros_arguments,
    running,
    serving,
)
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2
from std_msgs.msg import Header

from sd_perception_ros.ros.messages.camera_info import info_from_camera
from sd_perception_ros.ros.replay.camera_node import jpeg_message

LATCHED = QoSProfile(
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)
FIXED: dict[str, Any] = {
    'device': 'cpu',
    'diagnostics_rate_hz': 20.0,
    'depth__scale__source': 'fixed',
    'depth__scale__scale_m': 4.0,
    'depth__scale__shift_m': 1.0,
}


@pytest.fixture(scope='module')
def node(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Iterator[Process]:
    log = tmp_path_factory.mktemp('node') / 'log'
    with serving(log, checkpoint=tiny_checkpoint, **FIXED) as process:
        yield process


@pytest.fixture
def lone_peer() -> Iterator[Peer]:
    made = Peer()
    yield made
    made.close()


# ---- Parameters ---------------------------------------------------------------------------------


def test_all_parameters_have_a_value_for_tools_that_ask_for_all_at_once(peer):
    """As `ros2 param dump` asks: a single parameter without a value would leave an empty list."""
    names = peer.call(
        ListParameters, '/perception/list_parameters', ListParameters.Request()
    ).result.names
    assert {'cameras', 'tasks', 'segmentation.mask_classes', 'depth.scale.source'} <= set(names)
    request = GetParameters.Request(names=names)
    values = peer.call(GetParameters, '/perception/get_parameters', request).values
    assert len(values) == len(names) > 80
    found = dict(zip(names, values, strict=True))
    unset = [n for n, v in found.items() if v.type == ParameterType.PARAMETER_NOT_SET]
    assert unset == []
    assert found['cameras'].type == ParameterType.PARAMETER_STRING_ARRAY
    assert list(found['segmentation.mask_classes'].string_array_value) == ['person']


# ---- camera_info --------------------------------------------------------------------------------


def clouds_of(peer: Peer, camera: FakeCamera, change: dict[str, Any]) -> PointCloud2:
    """Send pictures with a changed camera info until one has points."""

    def send() -> Image:
        image = camera.image(picture())
        info = info_from_camera(lens_of(64, 48), image.header)
        for name, value in change.items():
            setattr(info, name, value)
        camera.infos.publish(info)
        camera.images.publish(image)
        return image

    return results_of(peer, send, {'/depth/points': PointCloud2})[1][0]


@pytest.mark.parametrize(
    ('model', 'coefficients'),
    [
        ('plumb_bob', [0.1] * 8),
        ('', [0.0] * 8),
        ('none', []),
        ('Kannala-Brandt4', [0.1] * 4),
        ('of my own', [0.1] * 3),  # not used without rectification
    ],
)
def test_points_need_no_coefficients(peer, camera, model, coefficients):
    change = {'distortion_model': model, 'd': coefficients}
    assert clouds_of(peer, camera, change).width == 64


def test_a_rectified_topic_is_not_rectified_again_and_needs_p_alone(
    lone_peer, tmp_path, tiny_checkpoint
):
    """P has focal lengths of 40 and 45 pixels; nobody can rectify with these coefficients."""
    peer = lone_peer
    camera = FakeCamera(peer, topic='/cam/image_rect')
    arguments = ros_arguments(checkpoint=tiny_checkpoint, rectify=True, **FIXED)
    remapped = ('-r', 'image_raw:=/cam/image_rect')
    with running(tmp_path / 'log', 'perception', *arguments, *remapped) as process:
        process.wait_for_output('subscribed to /cam/image_rect')
        connect(peer, camera)
        p = [40.0, 0.0, 30.0, 0.0, 0.0, 45.0, 25.0, 0.0, 0.0, 0.0, 1.0, 0.0]
        cloud = clouds_of(peer, camera, {'distortion_model': 'of my own', 'd': [0.5] * 3, 'p': p})
        points = np.frombuffer(cloud.data, np.float32).reshape(48, 64, 4)
        row, column = np.argwhere(np.isfinite(points[..., 2]))[-1]
        x, y, z = points[row, column, :3]
        assert x / z * 40 + 30 == pytest.approx(column, abs=1e-3)
        assert y / z * 45 + 25 == pytest.approx(row, abs=1e-3)
        assert '/cam/image_rect is rectified already' in process.output


def test_a_focal_length_in_millimetres_stops_points_and_is_reported(peer, camera):
    topics = {'/depth/points': PointCloud2, '/depth/relative': Image}
    results_of(peer, lambda: camera.send(picture()), topics)

    def complains(seen: dict[str, Any]) -> bool:
        image = camera.image(picture())
        info = info_from_camera(lens_of(64, 48), image.header)
        info.k[0] = info.k[4] = 4.0
        camera.infos.publish(info)
        camera.images.publish(image)
        return 'too short' in seen['message']

    status = peer.counters_when(complains)
    assert status['level'] == DiagnosticStatus.ERROR
    assert 'fx 4 and fy 4 are too short for a 64 x 48 image' in status['message']
    image = camera.image(picture())
    camera.images.publish(image)  # it gets the info that came last
    peer.result('/depth/relative', image)
    peer.spin(0.3)  # time for points, which must not come
    assert peer.with_stamp('/depth/points', image) is None


def test_a_camera_info_that_was_latched_before_the_node_started_is_received(
    lone_peer, tmp_path, tiny_checkpoint
):
    peer = lone_peer
    images = peer.node.create_publisher(Image, '/late/image_raw', RELIABLE)
    infos = peer.node.create_publisher(CameraInfo, '/late/camera_info', LATCHED)
    infos.publish(info_from_camera(lens_of(64, 48), Header(frame_id='lens')))
    maker = FakeCamera(peer, topic='/unused/image_raw')
    arguments = ros_arguments(checkpoint=tiny_checkpoint, **FIXED)
    with running(tmp_path / 'log', 'perception', *arguments, '-r', '__ns:=/late') as process:
        process.wait_for_output('subscribed to /late/image_raw')
        assert peer.until(images.get_subscription_count)

        def send() -> Image:
            images.publish(image := maker.image(picture()))
            return image

        _, [cloud] = results_of(peer, send, {'/late/depth/points': PointCloud2})
    assert cloud.width == 64


# ---- Pictures -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('rgb', 'problem'),
    [
        (np.zeros((48, 64, 3), np.uint8), 'black'),
        (np.full((48, 64, 3), 255, np.uint8), 'saturated'),
        (np.full((48, 64, 3), 99, np.uint8), 'of one colour'),
    ],
)
def test_a_picture_in_which_nothing_can_be_seen_is_a_warning(peer, camera, rgb, problem):
    name = f'images that are {problem}'
    before = int(peer.counters().get(name, 0))
    results_of(peer, lambda: camera.send(rgb), {'/depth/relative': Image})

    def complains(seen: dict[str, Any]) -> bool:
        camera.send(rgb)
        return f'images on /image_raw are {problem}' in seen['message']

    status = peer.counters_when(complains)
    assert status['level'] == DiagnosticStatus.WARN
    assert int(status[name]) > before


def test_twelve_bits_in_sixteen_are_seen(peer, camera, node):
    rgb = picture()

    def send() -> Image:
        image = camera.image(rgb)
        values = rgb[..., 0].astype('<u2') << 4
        image.encoding, image.step, image.data = 'mono16', 128, values.tobytes()
        camera.infos.publish(info_from_camera(lens_of(64, 48), image.header))
        camera.images.publish(image)
        return image

    results_of(peer, send, {'/depth/relative': Image})
    assert (
        peer.counters_when(lambda seen: 'bits of 16-bit values' in seen)['bits of 16-bit values']
        == '12'
    )


def test_a_jpeg_that_lost_data_is_dropped_and_counted(lone_peer, tmp_path, tiny_checkpoint):
    peer = lone_peer
    images = peer.node.create_publisher(CompressedImage, '/image_raw/compressed', RELIABLE)
    maker = FakeCamera(peer, topic='/unused/image_raw')
    arguments = {'checkpoint': tiny_checkpoint, **FIXED}
    with serving(tmp_path / 'log', **arguments, image_transport='compressed') as process:
        assert peer.until(images.get_subscription_count)

        def send(damaged: bool = False) -> CompressedImage:
            message = jpeg_message(picture(), maker.image(picture()).header)
            if damaged:
                half = len(message.data) // 2
                message.data = bytes(message.data[:half]) + bytes(200) + b'\xff\xd9'
            images.publish(message)
            return message

        results_of(peer, send, {'/depth/relative': Image})
        before = int(peer.counters().get('dropped: bad_image', 0))
        wrong = send(damaged=True)
        seen = peer.counters_when(lambda seen: int(seen.get('dropped: bad_image', 0)) > before)
        assert 'image dropped: the JPEG is damaged' in seen['last error']
        good, _ = results_of(peer, send, {'/depth/relative': Image})
        assert good.header.stamp != wrong.header.stamp
        assert peer.with_stamp('/depth/relative', wrong) is None
        assert 'Corrupt JPEG' not in process.output  # libjpeg's own lines
