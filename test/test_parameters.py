"""Tests of parameters from options dataclasses, camera infos, diagnostics and transport."""

from __future__ import annotations

from collections.abc import Iterator
import math
import os
from pathlib import Path
import subprocess
import sys

from diagnostic_msgs.msg import DiagnosticStatus
import pytest
from rclpy.node import Node
from rclpy.parameter import Parameter
from ros_helpers import Peer

from sd_perception_ros.checkpoint.config_file import OLD_TASKS
from sd_perception_ros.config import EngineConfig
from sd_perception_ros.ros.messages.labels import mask_ids
from sd_perception_ros.ros.node.diagnostics import NodeStatistics
from sd_perception_ros.ros.node.parameters import (
    declare,
    likely_typos,
    parameter_names,
    read,
    replace_old_names,
    replace_old_values,
)
from sd_perception_ros.ros.node.topics import camera_info_topic, image_topic
from sd_perception_ros.ros.node.transport import transport_environment, tuning_environment
from sd_perception_ros.ros.options import (
    CameraOptions,
    change_of,
    DepthOptions,
    InputOptions,
    NodeOptions,
    OLD_PARAMETERS,
    OutputOptions,
    when_used,
)


@pytest.fixture(scope='module')
def peer() -> Iterator[Peer]:
    made = Peer()
    yield made
    made.close()


def node_with(peer: Peer, arguments: list[str] | None = None, **values: object) -> Node:
    overrides = [Parameter(name.replace('__', '.'), value=v) for name, v in values.items()]
    arguments = ['--ros-args', *arguments] if arguments else None
    return Node(
        'some',
        context=peer.context,
        parameter_overrides=overrides,
        cli_args=arguments,
        namespace='front',
    )


def test_defaults_come_from_the_dataclass(peer):
    assert declare(node_with(peer), EngineConfig) == EngineConfig()


def test_values_of_a_dotted_group_are_read(peer):
    node = node_with(peer, depth__scale__source='fixed', depth__scale__scale_m=5)
    options = declare(node, DepthOptions, 'depth.')
    assert (options.scale.source, options.scale.scale_m) == ('fixed', 5.0)
    assert options.points.stride == 1


def test_a_list_of_names_is_read(peer):
    assert declare(node_with(peer, tasks=['depth']), EngineConfig).tasks == ['depth']


def test_every_parameter_has_a_description(peer):
    node = node_with(peer)
    declare(node, DepthOptions, 'depth.')
    about = node.describe_parameter('depth.points.stride')
    assert about.description
    assert (about.integer_range[0].from_value, about.integer_range[0].to_value) == (1, 64)


@pytest.mark.parametrize(
    ('values', 'words'),
    [
        ({'encoding': 'rgb9'}, "encoding has no choice 'rgb9'; choose one of: rgb8, bgr8, mono8"),
        ({'width': -1}, "'width'.*-1"),
        ({'width': 'wide'}, "'width'.*'wide'.*INTEGER"),
        ({'rate_hz': 'fast'}, 'rate_hz must be a number'),
        ({'rate_hz': math.nan}, 'rate_hz'),
        ({'source': ''}, 'source is empty; name a folder'),
    ],
)
def test_the_error_for_a_wrong_value_has_name_and_allowed_values(peer, values, words):
    with pytest.raises(ValueError, match=words):
        declare(node_with(peer, **values), CameraOptions)


def test_an_empty_list_means_none_and_not_the_default(peer):
    """A YAML file's [] reaches a node as a parameter without a value."""
    node = node_with(peer)
    node._parameter_overrides['segmentation.mask_classes'] = Parameter('segmentation.mask_classes')
    options = declare(node, OutputOptions)
    assert options.segmentation.mask_classes == []
    assert mask_ids(('floor', 'person'), options.segmentation) == []
    assert declare(node_with(peer), OutputOptions).segmentation.mask_classes == ['person']


def test_an_empty_list_has_the_type_of_a_list_of_names(peer):
    node = node_with(peer)
    assert declare(node, InputOptions).cameras == []
    assert node.get_parameter('cameras').type_ == Parameter.Type.STRING_ARRAY
    [result] = node.set_parameters([Parameter('cameras', value=['front', 'rear'])])
    assert result.successful
    assert read(node, InputOptions).cameras == ['front', 'rear']


@pytest.mark.parametrize('value', [[1, 2], 5, 'front'])
def test_a_list_of_names_holds_names(peer, value):
    with pytest.raises(ValueError, match="'cameras' must be a list of names, got"):
        declare(node_with(peer, cameras=value), InputOptions)


def test_a_range_with_swapped_ends_is_refused(peer):
    with pytest.raises(ValueError, match='min_range_m must be less than max_range_m'):
        declare(
            node_with(peer, depth__min_range_m=5.0, depth__max_range_m=2.0), DepthOptions, 'depth.'
        )


@pytest.mark.parametrize(
    ('name', 'used'),
    [
        ('human_pose.enabled', 'frame'),
        ('human_pose.checkpoint', 'reload'),
        ('checkpoint', 'reload'),
        ('qos_reliability', 'frame'),
        ('cameras', 'configure'),
        ('human_pose.top_down.boxes', 'reload'),
        ('depth.scale.source', 'frame'),
        ('diagnostics_rate_hz', 'frame'),
        ('autostart', 'start'),
    ],
)
def test_every_parameter_has_a_time_from_which_a_change_is_used(name, used):
    assert change_of(name) == used


def test_changes_together_are_used_when_the_last_of_them_is():
    assert when_used(['depth.enabled']) == 'used from the next frame on'
    later = 'used at the next configure or ~/reload_model; until then a warning in the log'
    assert when_used(['depth.enabled', 'rectify', 'device']) == later


def test_a_change_is_checked_before_it_is_made(peer):
    node = node_with(peer)
    declare(node, CameraOptions)
    assert read(node, CameraOptions, change={'width': 320}).width == 320
    with pytest.raises(ValueError, match='choose one of'):
        read(node, CameraOptions, change={'encoding': 'rgb9'})
    assert read(node, CameraOptions).width == 0


def test_parameter_names_of_the_previous_release_are_accepted_with_a_warning(peer, caplog):
    node = node_with(
        peer, scan__frame='base_link', pose__plane_distance_m=2, reliability='reliable'
    )
    replace_old_names(node, OLD_PARAMETERS)
    options = declare(node, OutputOptions)
    assert (options.scan.frame_id, options.human_pose.plane_distance_m) == ('base_link', 2.0)
    assert declare(node, InputOptions).qos_reliability == 'reliable'
    assert "'scan.frame' is now called 'scan.frame_id'" in caplog.text
    assert len(caplog.records) == 3


def test_a_parameter_that_is_set_by_its_old_and_new_name_is_refused(peer):
    node = node_with(peer, scan__frame='base_link', scan__frame_id='base_scan')
    with pytest.raises(ValueError, match=r"'scan.frame' is the old name of 'scan.frame_id'"):
        replace_old_names(node, OLD_PARAMETERS)


def test_old_values_that_name_tasks_are_rewritten(peer):
    node = node_with(
        peer, checkpoints=['pose=/models/pose', 'matting=/m'], tasks=['pose', 'depth']
    )
    replace_old_values(node, OLD_TASKS)
    assert declare(node, OutputOptions).checkpoints() == {
        'human_pose': '/models/pose',
        'matting': '/m',
    }
    assert declare(node, EngineConfig).tasks == ['human_pose', 'depth']
    with pytest.raises(ValueError, match="expected task=checkpoint, got 'pose'"):
        replace_old_values(node_with(peer, checkpoints=['pose']), OLD_TASKS)


def test_every_old_parameter_name_has_an_existing_new_name():
    names = {
        name
        for cls in (NodeOptions, EngineConfig, InputOptions, OutputOptions)
        for name in parameter_names(cls)
    }
    assert set(OLD_PARAMETERS.values()) <= names
    assert not set(OLD_PARAMETERS) & names


def test_a_task_may_have_a_separate_checkpoint(peer):
    node = node_with(peer, human_pose__checkpoint='/models/pose', matting__checkpoint='')
    assert declare(node, OutputOptions).checkpoints() == {'human_pose': '/models/pose'}


def test_a_misspelt_parameter_is_reported_and_one_of_another_node_is_not(peer):
    node = node_with(peer, horizontal_fov_degs=50.0, checkpoint='x', qos_overrides__a=1)
    declare(node, CameraOptions)
    assert likely_typos(node, parameter_names(CameraOptions)) == [
        ('horizontal_fov_degs', 'horizontal_fov_deg')
    ]


@pytest.mark.parametrize(
    ('rules', 'transport', 'image', 'info'),
    [
        ([], 'raw', '/front/image_raw', '/front/camera_info'),
        (['image_raw:=/cam/image'], 'raw', '/cam/image', '/cam/camera_info'),
        (['image_raw:=/cam/rect', 'camera_info:=/x'], 'raw', '/cam/rect', '/x'),
        (['image_raw:=/cam/i'], 'compressed', '/cam/i/compressed', '/cam/camera_info'),
        (['image_raw/compressed:=/jpeg'], 'compressed', '/jpeg', '/camera_info'),
    ],
)
def test_camera_info_is_the_sibling_of_the_image_after_remapping(
    peer, rules, transport, image, info
):
    node = node_with(peer, [part for rule in rules for part in ('-r', rule)])
    topic = image_topic(node, transport)
    assert (topic, camera_info_topic(node, topic)) == (image, info)


def test_diagnostics_have_the_worst_level_of_a_period():
    stats = NodeStatistics()
    stats.warn('slow')
    stats.error('broken')
    stats.warn('slow again')
    stats.count('received')
    for milliseconds in range(1, 102):
        stats.time('inference', float(milliseconds))
    first, second = (stats.status('n', 'h', 'fine') for _ in range(2))
    assert (first.level, first.message) == (DiagnosticStatus.ERROR, 'broken')
    assert (second.level, second.message) == (DiagnosticStatus.OK, 'fine')
    assert {pair.key: pair.value for pair in second.values} == {
        'received': '1',
        'inference_ms median': '51.00',
        'inference_ms p95': '96.00',
        'inference_ms p99': '100.00',
        'last error': 'broken',
    }


def test_large_messages_use_shared_memory_unless_the_user_configured_a_transport(tmp_path):
    profile = tmp_path / 'fastdds.xml'
    profile.touch()
    large = {'FASTDDS_BUILTIN_TRANSPORTS': 'LARGE_DATA'}
    name = 'FASTDDS_DEFAULT_PROFILES_FILE'
    assert transport_environment({}, profile, tmp_path) == {name: str(profile)}
    assert transport_environment({'ROS_DISTRO': 'jazzy'}, profile, tmp_path) == {
        'FASTRTPS_DEFAULT_PROFILES_FILE': str(profile)
    }
    assert transport_environment({}, tmp_path / 'missing.xml', tmp_path) == large
    assert transport_environment({}, profile, tmp_path / 'no_such_mount') == large
    assert transport_environment({'FASTDDS_BUILTIN_TRANSPORTS': 'UDPv4'}, profile, tmp_path) == {}
    other = {'RMW_IMPLEMENTATION': 'rmw_cyclonedds_cpp'}
    assert transport_environment(other, profile, tmp_path) == {}


def test_tuning_keeps_variables_of_the_user():
    made = tuning_environment({'OMP_WAIT_POLICY': 'ACTIVE'})
    assert sorted(made) == ['MALLOC_MMAP_THRESHOLD_', 'MALLOC_TRIM_THRESHOLD_']


@pytest.mark.parametrize(
    ('value', 'words'),
    [
        ('precision:=fp8', "EngineConfig.precision has no choice 'fp8'; choose one of: auto,"),
        ('depth.min_range_m:=200.0', 'min_range_m must be less than max_range_m'),
        ('cameras:=[front, front]', 'must be unique names'),
    ],
)
def test_the_node_refuses_a_wrong_value_before_torch_is_imported(tmp_path, value, words):
    code = (
        'import sys\n'
        'from sd_perception_ros.__main__ import main\n'
        f"code = main(['perception', '--ros-args', '-p', {value!r}])\n"
        "print('torch' in sys.modules, code)\n"
    )
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(
        [sys.executable, '-c', code],
        cwd=tmp_path,
        env={**os.environ, 'PYTHONPATH': str(root)},
        capture_output=True,
        text=True,
    )
    assert done.stdout == 'False 2\n'
    [line] = done.stderr.splitlines()
    assert words in line
