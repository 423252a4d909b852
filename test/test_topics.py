"""The topics of every task, from a real node with a small random model of all tasks."""

from __future__ import annotations

from collections.abc import Iterator
import json
from pathlib import Path

from models import save_tiny
import numpy as np
import pytest
from ros_helpers import (
    answer_of,
    picture,
    pixels,
    Process,
    ros_arguments,
    serving,
    set_parameter,
)
from sensor_msgs.msg import Image, LaserScan, PointCloud2
from visualization_msgs.msg import MarkerArray

from sd_perception_ros.config import EngineConfig
from sd_perception_ros.drawing import draw_people, over_checkerboard
from sd_perception_ros.engine import Engine
from sd_perception_ros.ros.messages.image import to_mono8
from sd_perception_ros.ros.messages.labels import LABEL_INFO
from sd_perception_ros.ros.messages.people import POINT
from sd_perception_ros.ros.node.qos import LATCHED
from sd_perception_ros.ros.replay.recorder import cloud_values
from sd_perception_ros.tasks import TASKS

MASKED = ('floor', 'wall', 'person')
NODE = '/perception'


@pytest.fixture(scope='module')
def all_tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp('all'), dict.fromkeys(TASKS, 'light'))


@pytest.fixture(scope='module')
def engine(all_tasks: Path) -> Engine:
    return Engine.from_config(EngineConfig(checkpoint=str(all_tasks), device='cpu'))


@pytest.fixture(scope='module')
def node(all_tasks: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    with serving(
        tmp_path_factory.mktemp('node') / 'log',
        checkpoint=all_tasks,
        device='cpu',
        diagnostics_rate_hz=10.0,
        segmentation__mask_classes=f'[{", ".join(MASKED)}]',
        depth__scale__source='fixed',
        depth__scale__scale_m=4.0,
        depth__scale__shift_m=1.0,
        scan__frame_id='base_link',
        scan__mounting__z_m=0.3,
        scan__increment_deg=2.0,
        depth__points__add_label_field=True,
    ) as process:
        yield process


def white(labels: np.ndarray, engine: Engine) -> np.ndarray:
    names = engine.tasks['segmentation'].class_names
    return np.isin(labels, [names.index(name) for name in MASKED]) * np.uint8(255)


def images_of(engine: Engine, rgb: np.ndarray) -> dict[str, tuple[str, np.ndarray]]:
    """Return {image topic: (encoding, pixels)}, made from predictions of the engine."""
    found = engine.predict([rgb])[0]
    colors = {name: task.colorize(found[name]) for name, task in engine.tasks.items()}
    labels = found['segmentation']
    return {
        'disparity/relative': ('32FC1', found['disparity'].values),
        'disparity/color': ('rgb8', colors['disparity']),
        'segmentation/labels': ('mono8', labels.labels),
        'segmentation/confidence': ('mono8', to_mono8(labels.confidence)),
        'segmentation/mask': ('mono8', white(labels.labels, engine)),
        'segmentation/color': ('rgb8', colors['segmentation']),
        'foreground/alpha': ('mono8', to_mono8(found['foreground'].alpha)),
        'matting/alpha': ('mono8', to_mono8(found['matting'].alpha)),
        'matting/color': ('rgb8', over_checkerboard(rgb, found['matting'].alpha)),
        'human_pose/overlay': ('rgb8', draw_people(rgb, found['human_pose'])),
    }


def test_images_equal_the_engine_and_have_the_header_of_the_input(peer, camera, engine):
    rgb = picture()
    for topic, (encoding, values) in images_of(engine, rgb).items():
        sent, image = answer_of(Image, peer, camera, f'/{topic}', rgb)
        assert (topic, image.encoding, image.header) == (topic, encoding, sent.header)
        difference = np.abs(pixels(image).astype(float) - values)
        # Values between two levels or classes may be rounded to either.
        assert np.mean(difference > (1e-3 if encoding == '32FC1' else 1.01)) < 0.01, topic


def test_late_subscribers_receive_the_class_names_too(node, peer, engine):
    peer.listen('/segmentation/label_info', LABEL_INFO, LATCHED)
    message = peer.next('/segmentation/label_info')
    names = engine.tasks['segmentation'].class_names
    if hasattr(message, 'class_map'):
        assert [c.class_name for c in message.class_map] == list(names)
    else:
        told = json.loads(message.data)['class_map']
        assert [c['class_name'] for c in told] == list(names)
        assert node.output.count('vision_msgs is not installed') == 1


def test_keypoints_and_markers_are_published_with_and_without_people(peer, camera, engine):
    rgb = picture()
    peer.listen('/human_pose/markers', MarkerArray)
    sent, cloud = answer_of(PointCloud2, peer, camera, '/human_pose/keypoints', rgb)
    people = engine.predict([rgb], ['human_pose'])[0]['human_pose'].people
    assert (cloud.header, cloud.point_step) == (sent.header, POINT.itemsize)
    found = sum(int(np.isfinite(person.joints[:, 0]).sum()) for person in people)
    assert abs(cloud.width - found) <= max(3, found // 10)
    markers = peer.next('/human_pose/markers').markers
    assert all(marker.header.frame_id == 'lens' for marker in markers)
    assert (len(markers) > 0) == (len(people) > 0)


def test_scan_and_clouds_have_their_frames_and_fields(peer, camera, engine):
    rgb = picture()
    sent, scan = answer_of(LaserScan, peer, camera, '/scan', rgb)
    assert (scan.header.frame_id, scan.header.stamp) == ('base_link', sent.header.stamp)
    assert len(scan.ranges) == 61
    for topic in ('/depth/points', '/depth/points_people'):
        sent, cloud = answer_of(PointCloud2, peer, camera, topic, rgb)
        assert (cloud.header, cloud.height, cloud.width) == (sent.header, 48, 64)
        assert [field.name for field in cloud.fields] == ['x', 'y', 'z', 'rgb', 'label']
        labels = cloud_values(cloud)['label'].reshape(48, 64)
        expected = engine.predict([rgb], ['segmentation'])[0]['segmentation'].labels
        assert np.mean(labels != expected) < 0.01
    person = engine.tasks['segmentation'].class_names.index('person')
    assert set(labels[np.isfinite(cloud_values(cloud)['z'].reshape(48, 64))]) <= {person}


def test_a_disabled_task_is_not_published_until_it_is_enabled_again(peer, camera):
    rgb = picture()
    answer_of(Image, peer, camera, '/disparity/relative', rgb)
    assert set_parameter(peer, 'disparity.enabled', False, NODE) == ''
    image, _ = answer_of(
        Image, peer, camera, '/matting/alpha', rgb
    )  # the others are still published
    name = 'task disabled: disparity'
    assert int(peer.counters_when(lambda seen: name in seen)[name]) >= 1
    assert peer.with_stamp('/disparity/relative', image) is None
    assert set_parameter(peer, 'disparity.enabled', True, NODE) == ''
    answer_of(Image, peer, camera, '/disparity/relative', rgb)


def test_human_pose_is_published_without_metres_if_depth_is_disabled(peer, camera):
    """Its points have x, y, z of NaN."""
    assert set_parameter(peer, 'depth.enabled', False, NODE) == ''
    _, cloud = answer_of(PointCloud2, peer, camera, '/human_pose/keypoints', picture())
    points = np.frombuffer(cloud.data, POINT)
    assert np.isnan(points['z']).all()
    assert set_parameter(peer, 'depth.enabled', True, NODE) == ''


def test_an_unknown_class_is_refused_when_the_node_is_configured(all_tasks, tmp_path):
    arguments = ros_arguments(
        checkpoint=all_tasks, device='cpu', segmentation__mask_classes='[person, unicorn]'
    )
    process = Process(tmp_path / 'log', 'perception', *arguments)
    assert process.wait() == 1
    assert "has no class 'unicorn'; choose from: sky, floor" in process.output
    assert process.output.count('[ERROR]') == 1
    assert 'Traceback' not in process.output
