"""Start the perception node, and optionally the camera node and RViz."""

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
# Launch argument: default, description. An empty argument keeps the value of the parameter file.
ARGUMENTS = {
    'namespace': ('', 'Namespace of the nodes, for example front'),
    'params_file': (
        PathJoinSubstitution([FindPackageShare(PACKAGE), 'config', 'perception.yaml']),
        'Parameter file of the nodes; the launch file has no other parameters',
    ),
    'model': ('', 'Overrides the parameter checkpoint: a known name, a folder or a file'),
    'device': ('', "Overrides the parameter device: 'cpu' or 'cuda:0'"),
    'image_topic': ('image_raw', 'Topic of the images'),
    'camera_info_topic': ('', 'Topic of the camera info; empty: beside the image topic'),
    'use_sim_time': ('', 'Overrides the parameter use_sim_time: true or false'),
    'autostart': ('', 'Overrides the parameter autostart: true or false'),
    'log_level': ('info', 'debug, info, warn, error or fatal'),
    'respawn': ('false', 'Start the perception node again when its process ends'),
    'large_data': ('true', 'Select a transport for large messages, unless one is configured'),
    'camera': ('false', 'Also start the camera node, which publishes files'),
    'rviz': ('false', 'Also start RViz, if it is installed'),
}
# Launch argument: parameter that it overrides.
PARAMETERS = {
    'model': 'checkpoint',
    'device': 'device',
    'use_sim_time': 'use_sim_time',
    'autostart': 'autostart',
}
BOOLEANS = ('use_sim_time', 'autostart')


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments; `entities` runs when their values are known."""
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=description)
        for name, (default, description) in ARGUMENTS.items()
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=entities)])


def entities(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """Make the nodes."""
    given = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    if not Path(given['params_file']).is_file():  # launch_ros would continue without it
        raise ValueError(f"params_file must be an existing file, got '{given['params_file']}'")
    common = {
        'package': PACKAGE,
        'namespace': given['namespace'],
        'output': 'screen',
        'ros_arguments': ['--log-level', given['log_level']],
    }
    topics = {'image_raw': given['image_topic'], 'camera_info': given['camera_info_topic']}
    remappings = [(name, topic) for name, topic in topics.items() if topic]
    share = Path(FindPackageShare(PACKAGE).perform(context)) / 'config'
    return [
        *transport(boolean('large_data', given['large_data']), share),
        LifecycleNode(
            executable='perception_node',
            name='perception',
            parameters=[given['params_file'], *overrides(given, PARAMETERS)],
            remappings=remappings,
            respawn=boolean('respawn', given['respawn']),
            respawn_delay=2.0,
            **common,
        ),
        Node(
            executable='camera_node',
            name='camera',
            parameters=[given['params_file'], *overrides(given, ['use_sim_time'])],
            remappings=remappings,
            condition=IfCondition(str(boolean('camera', given['camera']))),
            **common,
        ),
        *(rviz(given, share) if boolean('rviz', given['rviz']) else []),
    ]


def rviz(given: Mapping[str, str], share: Path) -> list[LaunchDescriptionEntity]:
    """Start RViz, or log that it is not installed; the nodes run without it."""
    try:
        get_package_prefix('rviz2')
    except PackageNotFoundError:
        return [
            LogInfo(
                msg='rviz:=true, but RViz is not installed: install the package rviz2 '
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
    Return the parameters that override the parameter file.

    :returns: a list of one dictionary, or of none (launch_ros refuses an empty dictionary).
    """
    parameters = {
        PARAMETERS[name]: boolean(name, given[name]) if name in BOOLEANS else given[name]
        for name in arguments
        if given[name]
    }
    return [parameters] if parameters else []


def boolean(name: str, text: str) -> bool:
    """
    Read a boolean argument.

    :raises ValueError: neither true nor false.
    """
    if text.lower() not in ('true', 'false'):
        raise ValueError(f"{name} must be true or false, got '{text}'")
    return text.lower() == 'true'


def transport(wanted: bool, share: Path) -> list[SetEnvironmentVariable]:
    """Set environment variables for large messages, as `python -m sd_perception_ros up`."""
    environment = tuning_environment(os.environ)
    environment |= transport_environment(os.environ, share / 'fastdds.xml') if wanted else {}
    return [SetEnvironmentVariable(name, value) for name, value in environment.items()]
