"""Launch file, parameter files and manifest name what exists, and what is needed."""

from __future__ import annotations

from pathlib import Path
import re
import runpy
import sys
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
LAUNCH = ROOT / 'launch' / 'perception.launch.py'
SETUP = (ROOT / 'setup.py').read_text()


def test_it_compiles_and_defines_what_launch_calls():
    code = compile(LAUNCH.read_text(), str(LAUNCH), 'exec')
    assert 'generate_launch_description' in code.co_names


def test_every_executable_is_an_entry_point_of_the_package():
    executables = re.findall(r"executable='(\w+_node)'", LAUNCH.read_text())
    assert executables == ['perception_node', 'camera_node']
    assert [name for name in executables if f'{name} = ' not in SETUP] == []


def test_every_file_of_config_that_it_names_exists():
    named = re.findall(r"'([\w./]+\.(?:yaml|xml|rviz))'", LAUNCH.read_text())
    assert {'perception.yaml', 'fastdds.xml', 'rviz/perception.rviz'} <= set(named)
    assert [name for name in named if not (ROOT / 'config' / name).is_file()] == []


def test_rviz_shows_topics_that_exist_relative_to_its_namespace():
    pytest.importorskip('rclpy', reason='ROS 2 is not installed')
    from sd_perception_ros.ros.output.outputs import OUTPUTS

    text = (ROOT / 'config' / 'rviz' / 'perception.rviz').read_text()
    displays = yaml.safe_load(text)['Visualization Manager']['Displays']
    kinds = {
        display['Topic']['Value']: display['Class'].rpartition('/')[2] for display in displays
    }
    ours = {output.topic: output.msg_type.__name__ for output in OUTPUTS}
    assert kinds.pop('image_raw') == 'Image'
    assert kinds == {topic: ours[topic] for topic in kinds}
    assert {
        'segmentation/color',
        'matting/color',
        'human_pose/overlay',
        'human_pose/markers',
    } <= set(kinds)


def test_the_parameter_file_has_only_parameters_that_exist():
    pytest.importorskip('rclpy', reason='ROS 2 is not installed')
    from sd_perception_ros.ros.node.parameters import parameter_names
    from sd_perception_ros.ros.options import CameraOptions
    from sd_perception_ros.ros.perception_node import GROUPS

    known = {
        '/**/camera': parameter_names(CameraOptions),
        '/**/perception': [
            name for cls, prefix in GROUPS for name in parameter_names(cls, prefix)
        ],
    }
    text = (ROOT / 'config' / 'perception.yaml').read_text()
    # What is commented out as an example must be right as well.
    examples = re.sub(r'^    # ((?:  )*\w+:)', r'    \1', text, flags=re.MULTILINE)
    assert examples != text
    for node, content in yaml.safe_load(examples).items():
        names = _flat(content['ros__parameters'])
        assert [name for name in names if name not in known[node]] == []


def test_launch_loads_it():
    pytest.importorskip('launch_ros', reason='launch has no wheel; it is part of ROS 2')
    module = runpy.run_path(str(LAUNCH))
    description = module['generate_launch_description']()
    declared = [argument.name for argument in description.get_launch_arguments()]
    assert declared == list(module['ARGUMENTS'])


@pytest.mark.parametrize(
    ('words', 'perception', 'camera'),
    [
        ({}, None, None),
        ({'autostart': 'false'}, {'autostart': False}, None),
        (
            {'use_sim_time': 'True', 'model': 'a', 'device': 'cpu'},
            {'use_sim_time': True, 'checkpoint': 'a', 'device': 'cpu'},
            {'use_sim_time': True},
        ),
    ],
)
def test_only_given_arguments_override_the_parameter_file(words, perception, camera):
    pytest.importorskip('launch_ros', reason='launch has no wheel; it is part of ROS 2')
    module = runpy.run_path(str(LAUNCH))
    given = {name: default for name, (default, _) in module['ARGUMENTS'].items()} | words
    overrides = module['overrides']
    assert overrides(given, module['PARAMETERS']) == ([perception] if perception else [])
    assert overrides(given, ['use_sim_time']) == ([camera] if camera else [])


def test_a_wrong_boolean_is_refused():
    pytest.importorskip('launch_ros', reason='launch has no wheel; it is part of ROS 2')
    with pytest.raises(ValueError, match="autostart must be true or false, got 'yes'"):
        runpy.run_path(str(LAUNCH))['truth']('autostart', 'yes')


@pytest.mark.parametrize(
    ('words', 'error'),
    [
        ({'params_file': '/no/such.yaml'}, "params_file must be an existing file, got '/no/such"),
        ({'camera': 'yes'}, "camera must be true or false, got 'yes'"),
        ({'rviz': 'maybe'}, "rviz must be true or false, got 'maybe'"),
    ],
)
def test_a_wrong_argument_ends_the_launch_with_the_allowed_values(monkeypatch, words, error):
    pytest.importorskip('launch_ros', reason='launch has no wheel; it is part of ROS 2')
    from launch import LaunchContext

    module = runpy.run_path(str(LAUNCH))
    context = LaunchContext()
    given = {name: value for name, (value, _) in module['ARGUMENTS'].items()}
    given['params_file'] = str(ROOT / 'config' / 'perception.yaml')
    context.launch_configurations.update(given | words)
    share = SimpleNamespace(perform=lambda context: str(ROOT))
    monkeypatch.setitem(module['entities'].__globals__, 'FindPackageShare', lambda name: share)
    with pytest.raises(ValueError, match=error):
        module['entities'](context)


def test_the_manifest_declares_what_the_nodes_import():
    """
    Not torch and its company: their builds differ by machine (requirements/core.txt).

    Nor what only recordings and videos of `predict` need (requirements/predict.txt).
    """
    keys = {'cv2': 'python3-opencv', 'PIL': 'python3-pil', 'tqdm': 'python3-tqdm'}
    keys |= {'numpy': 'python3-numpy', 'yaml': 'python3-yaml', 'tf2_ros': 'tf2_ros_py'}
    elsewhere = {'sd_perception_ros', 'torch', 'av', 'rosbags', *sys.stdlib_module_names}
    package = ROOT / 'sd_perception_ros'
    files = [*package.glob('ros/**/*.py'), *package.glob('cli/**/*.py')]
    imports = re.compile(r'^ *(?:from|import) (\w+)', re.MULTILINE)
    wanted = {name for file in files for name in imports.findall(file.read_text())} - elsewhere
    assert {'PIL', 'rclpy', 'std_srvs'} <= wanted
    manifest = ElementTree.parse(ROOT / 'package.xml').getroot()
    declared = {element.text for element in manifest if element.tag.endswith('depend')}
    assert {keys.get(name, name) for name in wanted} - declared == set()


def _flat(values: dict[str, object], prefix: str = '') -> list[str]:
    names = []
    for name, value in values.items():
        nested = isinstance(value, dict)
        names += _flat(value, f'{prefix}{name}.') if nested else [prefix + name]
    return names
