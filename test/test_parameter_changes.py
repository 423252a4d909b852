"""`ros2 param set` on a running node: used at once, refused, or a warning of when it is used."""

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
from sensor_msgs.msg import Image, LaserScan

from sd_perception_ros.config import flat_options
from sd_perception_ros.ros.options import change_of, NODES
from sd_perception_ros.tasks import make_task, TASKS

NODE = '/perception'
OPTIONS = {o.name: o for cls in NODES['perception'] for o in flat_options(cls)}
# Another value for each parameter whose type, range and choices do not give one.
OTHER = {
    'cameras': ['front', 'rear'],
    'checkpoint': '/models/other',
    'checkpoint_folders': ['/models'],
    'depth.points.exclude_classes': ['wall'],
    'device': 'cpu',
    'human_pose.top_down.crop_height_px': 64,
    'human_pose.top_down.detection_classes': ['0'],
    'scan.frame_id': 'base_link',
    'segmentation.mask_classes': ['floor'],
    'tasks': ['depth'],
}

# Sets each parameter of an active node to another value, and prints what came of it: the reason
# of a refusal, and the parts of the node that still have the old value.
CODE = """
import json, sys
import rclpy
from rclpy.parameter import Parameter
from sd_perception_ros.ros.node.parameters import read
from sd_perception_ros.ros.options import InputOptions, NodeOptions, OutputOptions
from sd_perception_ros.ros.perception_node import PerceptionNode

others = json.loads(sys.argv.pop(1))
rclpy.init(args=sys.argv)
node = PerceptionNode()
node.start()

def stale():
    outputs = node._serving.current.outputs['']
    inputs = node._pipeline._inputs
    options, input_options = read(node, OutputOptions), read(node, InputOptions)
    depth, scale = options.depth, options.depth.scale
    camera, policy = inputs[''], inputs['']._policy
    age_s, duplicates = input_options.max_frame_age_s, input_options.drop_duplicate_stamps
    pairs = {
        'outputs': (outputs._options, options),
        'estimator': (outputs._estimator._options, scale),
        'range': (outputs._estimator._range_m, (depth.min_range_m, depth.max_range_m)),
        'metric input': (inputs.metric['']._options, scale),
        'sensor': (inputs.metric['']._sensor is not None, scale.source in ('depth', 'scan')),
        'pipeline': (node._pipeline._options, input_options),
        'camera': (camera._options, input_options),
        'topic': (camera.topic.endswith('compressed'), input_options.image_transport != 'raw'),
        'age': (policy._max_age_ns / 1e9, age_s),
        'duplicates': (policy._drop_duplicates, duplicates),
        'reliability': (
            camera._images.qos_profile.reliability.name.lower(),
            input_options.qos_reliability.replace('auto', 'reliable'),
        ),
        'node': (node._options, read(node, NodeOptions)),
        'rate': (node._timer.timer_period_ns, round(1e9 / node._options.diagnostics_rate_hz)),
        'topics': (
            any(topic.endswith('/scan') for topic in outputs.topics),
            bool(options.scan.frame_id and scale.source != 'none'),
        ),
    }
    return [name for name, (used, set_to) in pairs.items() if used != set_to]

for name, candidates in others.items():
    before = node.get_parameter_or(name).value
    for value in candidates:
        print('setting', name, file=sys.stderr, flush=True)
        [result] = node.set_parameters([Parameter(name, value=value)])
        is_set = node.get_parameter(name).value == value
        if result.successful:
            break
    outcome = [name, result.successful, result.reason, is_set, stale()]
    print(json.dumps(outcome), flush=True)
node.close()
node.destroy_node()
rclpy.shutdown()
"""


def candidates(name: str) -> list[object]:
    """Return other values of a parameter; the first that fits the other parameters is used."""
    option = OPTIONS[name]
    if name in OTHER:
        return [OTHER[name]]
    if option.kind is bool:
        return [not option.default]
    if option.metadata['choices']:
        return [choice for choice in option.metadata['choices'] if choice != option.default]
    if option.kind is str:
        return ['other']
    low, high = option.metadata['low'], option.metadata['high']
    values = (option.default + 1, (option.default + high) / 2, (option.default + low) / 2)
    return [option.kind(value) for value in values if value != option.default]


@pytest.fixture(scope='module')
def all_tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp('all'), dict.fromkeys(TASKS, 'light'))


@pytest.fixture(scope='module')
def outcomes(all_tasks: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[object]]:
    """Return for each parameter: whether it was set, the reason, what is stale, its log lines."""
    names = [name for name in OPTIONS if name != 'depth.scale.source']
    others = {name: candidates(name) for name in ['depth.scale.source', *names]}
    others['depth.scale.source'] = ['fixed']  # first: outputs in metres then depend on the rest
    arguments = ros_arguments(checkpoint=all_tasks, device='auto')
    log = tmp_path_factory.mktemp('changes') / 'log'
    process = Process(log, json.dumps(others), *arguments, code=CODE)
    assert process.wait() == 0, process.output
    found: dict[str, list[object]] = {}
    lines: list[str] = []
    for line in process.output.splitlines():
        if line.startswith('setting '):
            lines = []
        elif line.startswith('["'):
            name, *outcome = json.loads(line)
            found[name] = [*outcome, lines]
        else:
            lines.append(line)
    return found


@pytest.mark.parametrize('name', OPTIONS)
def test_a_changed_parameter_is_used_at_once_or_refused_or_there_is_a_warning(name, outcomes):
    successful, reason, is_set, stale, lines = outcomes[name]
    change = change_of(name)
    assert stale == []
    if change == 'start':
        assert (successful, is_set) == (False, False)
        assert 'read-only' in reason
    elif change == 'configure':
        assert (successful, is_set) == (False, False)
        assert 'cannot be changed while the node is configured' in reason
    else:
        assert (successful, is_set) == (True, True), reason
        warned = any('[WARN]' in line and name in line for line in lines)
        assert warned == (change == 'reload'), lines


@pytest.fixture(scope='module')
def node(all_tasks: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    with serving(
        tmp_path_factory.mktemp('node') / 'log',
        checkpoint=all_tasks,
        device='cpu',
        diagnostics_rate_hz=10.0,
        depth__scale__source='fixed',
        depth__scale__scale_m=4.0,
    ) as process:
        yield process


def test_a_changed_scale_changes_the_metres_of_the_next_frame(peer, camera):
    rgb = picture()
    metres = []
    for scale_m in (4.0, 8.0):
        assert set_parameter(peer, 'depth.scale.scale_m', scale_m, NODE) == ''
        metres.append(pixels(answer_of(Image, peer, camera, '/depth/image_rect', rgb)[1]))
    inside = np.isfinite(metres[0]) & np.isfinite(metres[1])
    assert inside.mean() > 0.5
    np.testing.assert_allclose(metres[1][inside], 2 * metres[0][inside], rtol=1e-3)


def test_changed_mask_classes_change_the_mask_and_an_unknown_class_is_refused(peer, camera):
    rgb = picture()
    _, message = answer_of(Image, peer, camera, '/segmentation/labels', rgb)
    labels = pixels(message)
    common = int(np.bincount(labels.ravel()).argmax())
    name = make_task('segmentation').class_names[common]
    assert set_parameter(peer, 'segmentation.mask_classes', [name], NODE) == ''
    _, mask = answer_of(Image, peer, camera, '/segmentation/mask', rgb)
    assert np.mean((pixels(mask) == 255) == (labels == common)) > 0.99
    reason = set_parameter(peer, 'segmentation.mask_classes', ['unicorn'], NODE)
    assert "has no class 'unicorn'; choose from: " in reason


def test_a_scan_begins_when_its_frame_is_set_and_ends_when_it_is_empty(peer, camera):
    assert set_parameter(peer, 'scan.frame_id', 'base_link', NODE) == ''
    _, scan = answer_of(LaserScan, peer, camera, '/scan', picture())
    assert scan.header.frame_id == 'base_link'
    assert set_parameter(peer, 'scan.frame_id', '', NODE) == ''
    assert peer.until(lambda: not peer.node.count_publishers('/scan'), 10.0)


def test_the_model_s_parameters_wait_for_a_reload_with_a_warning(node, peer, camera):
    assert set_parameter(peer, 'long_side_px', 128, NODE) == ''
    node.wait_for_output(
        'long_side_px: used when the model is loaded again; call /perception/reload_model'
    )
    assert 'read-only' in set_parameter(peer, 'autostart', False, NODE)
