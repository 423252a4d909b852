"""Published messages depend only on the frame, the model and the parameters."""

from __future__ import annotations

import array
from collections.abc import Iterator
import functools
from pathlib import Path
import struct
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
from rclpy.lifecycle import LifecycleNode
from ros_helpers import connect, FakeCamera, Peer, serving
from sensor_msgs.msg import Image, PointCloud2
from std_msgs.msg import Header

from sd_perception_ros.config import build
from sd_perception_ros.engine import Engine
from sd_perception_ros.ros.frame import CameraFrame
from sd_perception_ros.ros.input.metric import MetricInput
from sd_perception_ros.ros.messages.people import POINT
from sd_perception_ros.ros.node.diagnostics import NodeStatistics
from sd_perception_ros.ros.options import OutputOptions
from sd_perception_ros.ros.output.outputs import OUTPUTS
from sd_perception_ros.ros.output.publishers import Outputs
from sd_perception_ros.ros.replay.sources import DEMO, open_source

SCALE = {'source': 'fixed', 'scale_m': 4.0, 'shift_m': 1.0}
# Options with which topics could affect one another.
SETTINGS = {
    'fixed scale': {'depth': {'scale': SCALE}},
    'depth disabled': {'depth': {'scale': SCALE, 'enabled': False}},
    'disparity': {'depth': {'scale': {**SCALE, 'from_task': 'disparity', 'scale_m': 0.5}}},
    'ground': {'depth': {'scale': {'source': 'ground', 'camera_height_m': 1.15}}},
    'ground, no segmentation': {
        'depth': {'scale': {'source': 'ground', 'camera_height_m': 1.15}},
        'segmentation': {'enabled': False},
    },
    'people from their stature': {'depth': {'scale': {**SCALE, 'source': 'person'}}},
    'classes in the cloud': {
        'depth': {'scale': SCALE, 'points': {'add_label_field': True, 'exclude_classes': ['wall']}}
    },
    'no scale': {},
}


@pytest.fixture(scope='module')
def node() -> Iterator[LifecycleNode]:
    peer = Peer('outputs')
    made = LifecycleNode('publishers', context=peer.context)
    yield made
    made.destroy_node()
    peer.close()


@functools.cache
def engine() -> Engine:
    return Engine.load('bundled', device='cpu')


@functools.cache
def frame() -> CameraFrame:
    shot = open_source(str(DEMO)).frame(20)
    header = Header(frame_id='lens')
    header.stamp.sec = 5
    return CameraFrame(header, shot.rgb, shot.camera)


@functools.cache
def predictions() -> dict[str, Any]:
    return engine().predict([frame().rgb])[0]


def published(node: LifecycleNode, setting: str, topics: frozenset[str]) -> dict[str, Any]:
    """Return the messages of one frame, when these topics have subscribers."""
    options = build(OutputOptions, {'scan': {'frame_id': 'base_link'}, **SETTINGS[setting]})
    stats = NodeStatistics()
    metric_input = MetricInput(options.depth.scale, stats)
    outputs = Outputs(node, engine().tasks, options, metric_input, stats)
    try:
        enabled = {task for task in engine().tasks if getattr(options, task).enabled}
        offered = [output for output in outputs._publishers if hasattr(output, 'metric')]
        wanted = [o for o in offered if o.topic in topics and o.task in enabled]
        ran = outputs.tasks_for(wanted, enabled)
        own = {task: predictions()[task] for task in ran}
        return {output.topic: m for output, m in outputs.messages(frame(), own, wanted)}
    finally:
        outputs.close()


def content(value: Any) -> Any:
    """Return a message as plain values; NaN compares equal to NaN."""
    if hasattr(value, 'get_fields_and_field_types'):
        return [content(getattr(value, name)) for name in value.get_fields_and_field_types()]
    if isinstance(value, array.array | np.ndarray):
        return value.tobytes()
    if isinstance(value, list | tuple):
        return [content(element) for element in value]
    return struct.pack('d', value) if isinstance(value, float) else value


@functools.cache
def alone(node: LifecycleNode, setting: str, topic: str) -> Any:
    return content(published(node, setting, frozenset({topic})).get(topic))


@settings(max_examples=60, deadline=None)
@given(
    setting=st.sampled_from(sorted(SETTINGS)),
    topics=st.frozensets(st.sampled_from([output.topic for output in OUTPUTS]), min_size=1),
)
def test_a_message_does_not_depend_on_other_subscribers(
    node: LifecycleNode, setting: str, topics: frozenset[str]
) -> None:
    together = published(node, setting, topics)
    for topic in topics:
        assert content(together.get(topic)) == alone(node, setting, topic), topic


def test_without_depth_people_have_no_metres_even_if_disparity_is_published(
    node: LifecycleNode,
) -> None:
    """The scale belongs to depth; applied to disparity as 1 / m it gave 0.24 to 0.65 m."""
    topics = frozenset({'human_pose/keypoints', 'disparity/relative'})
    cloud = published(node, 'depth disabled', topics)['human_pose/keypoints']
    joints = np.frombuffer(cloud.data, POINT)
    assert len(joints) > 10
    assert np.isnan(joints['z']).all()


def test_without_depth_people_have_no_metres_between_real_processes(tmp_path: Path) -> None:
    parameters = {
        'device': 'cpu',
        'depth__enabled': False,
        'depth__scale__source': 'fixed',
        'depth__scale__scale_m': 4.0,
        'depth__scale__shift_m': 1.0,
    }
    with serving(tmp_path / 'log', **parameters):
        peer = Peer()
        try:
            camera = FakeCamera(peer)
            connect(peer, camera)
            for topic, kind in (
                ('/human_pose/keypoints', PointCloud2),
                ('/disparity/relative', Image),
            ):
                peer.listen(topic, kind)
            peer.spin(0.5)
            for _ in range(20):
                camera.send(frame().rgb)
                if peer.until(lambda: all(peer.received.values()), 3.0):
                    break
            joints = np.frombuffer(peer.received['/human_pose/keypoints'][0].data, POINT)
            assert len(joints) > 10
            assert np.isnan(joints['z']).all()
        finally:
            peer.close()
