"""Start the perception node, and a camera made of files if asked for."""

# ruff: noqa: I001 (it takes the package launch for this folder of the same name)

from __future__ import annotations

from collections.abc import Iterable, Mapping
import os
from pathlib import Path

from ament_index_python.packages import get_package_prefix, PackageNotFoundError
from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import DeclareLaunchArgument, LogInfo, OpaqueFunction, SetEnvironmentVariable
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import LifecycleNode, Node
from launch_ros.substitutions import FindPackageShare

from sd_perception_ros.ros.node.transport import transport_environment, tuning_environment

PACKAGE = 'sd_perception_ros'
RVIZ = 'rviz/perception.rviz'  # below config/
# Launch argument: default, meaning. A parameter whose argument is empty stays as in the file.
ARGUMENTS = {
    'namespace': ('', 'Namespace of the nodes, for example front'),
    'params_file': (
        PathJoinSubstitution([FindPackageShare(PACKAGE), 'config', 'perception.yaml']),
        'Every parameter of the nodes; the launch file adds none of its own',
    ),
    'model': ('', 'Checkpoint, over the file: a known name, a folder or a checkpoint.yaml'),
    'device': ('', "Torch device, over the file: 'cpu' or 'cuda:0'"),
    'image_topic': ('image_raw', 'Input topic'),
    'camera_info_topic': ('', 'Its camera info; empty: the sibling of the input topic'),
    'use_sim_time': ('', 'Over the file: true or false, whether /clock drives the nodes'),
    'autostart': ('', 'Over the file: true, or false to wait for the lifecycle services'),
    'log_level': ('info', 'debug, info, warn, error or fatal'),
    'large_data': ('true', 'Set a transport for messages of megabytes unless you set one'),
    'camera': ('false', 'Also start the camera node, which replays files'),
    'rviz': ('false', 'Also start RViz, where it is installed'),
}
# Launch argument: the node's parameter that it sets.
PARAMETERS = {
    'model': 'checkpoint',
    'device': 'device',
    'use_sim_time': 'use_sim_time',
    'autostart': 'autostart',
}
TRUTHS = ('use_sim_time', 'autostart')


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments; what depends on their values is made when they are known."""
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=about)
        for name, (default, about) in ARGUMENTS.items()
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=entities)])


def entities(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """Make the nodes."""
    given = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    if not Path(given['params_file']).is_file():  # launch_ros would go on without it
        raise ValueError(f"params_file must be an existing file, got '{given['params_file']}'")
    common = {
        'package': PACKAGE,
        'namespace': given['namespace'],
        'output': 'screen',
        'ros_arguments': ['--log-level', given['log_level']],
    }
    topics = {'image_raw': given['image_topic'], 'camera_info': given['camera_info_topic']}
    remappings = [(ours, theirs) for ours, theirs in topics.items() if theirs]
    share = Path(FindPackageShare(PACKAGE).perform(context)) / 'config'
    return [
        *transport(truth('large_data', given['large_data']), share),
        LifecycleNode(
            executable='perception_node',
            name='perception',
            parameters=[given['params_file'], *overrides(given, PARAMETERS)],
            remappings=remappings,
            **common,
        ),
        Node(
            executable='camera_node',
            name='camera',
            parameters=[given['params_file'], *overrides(given, ['use_sim_time'])],
            remappings=remappings,
            condition=IfCondition(str(truth('camera', given['camera']))),
            **common,
        ),
        *(rviz(given, share) if truth('rviz', given['rviz']) else []),
    ]


def rviz(given: Mapping[str, str], share: Path) -> list[LaunchDescriptionEntity]:
    """Make RViz, or a line that says why it is not there; the nodes run without it."""
    try:
        get_package_prefix('rviz2')
    except PackageNotFoundError:
        return [
            LogInfo(
                msg='rviz:=true, but RViz is not installed here: install the package rviz2 '
                f'(apt install ros-$ROS_DISTRO-rviz2), or open {share / RVIZ} on another machine'
            )
        ]
    return [
        Node(
            package='rviz2',
            executable='rviz2',
            namespace=given['namespace'],
            arguments=['-d', str(share / RVIZ)],
            parameters=overrides(given, ['use_sim_time']),
        )
    ]


def overrides(given: Mapping[str, str], arguments: Iterable[str]) -> list[dict[str, str | bool]]:
    """
    Make the parameters that stand above the file: those whose argument was given.

    :returns: one dictionary, or none where nothing was given (launch_ros takes no empty one).
    """
    over = {
        PARAMETERS[name]: truth(name, given[name]) if name in TRUTHS else given[name]
        for name in arguments
        if given[name]
    }
    return [over] if over else []


def truth(name: str, text: str) -> bool:
    """
    Read the value of an argument that is true or false.

    :raises ValueError: another word.
    """
    if text.lower() not in ('true', 'false'):
        raise ValueError(f"{name} must be true or false, got '{text}'")
    return text.lower() == 'true'


def transport(wanted: bool, share: Path) -> list[SetEnvironmentVariable]:
    """Set a transport with which large messages arrive, as `python -m sd_perception_ros up`."""
    made = tuning_environment(os.environ)
    made |= transport_environment(os.environ, share / 'fastdds.xml') if wanted else {}
    return [SetEnvironmentVariable(name, value) for name, value in made.items()]
