"""A Nav2 costmap from one camera: the demo sequence, the perception node, and one layer."""

# ruff: noqa: I001 (it takes the package launch for this folder of the same name)

from __future__ import annotations

from pathlib import Path

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode, Node
from launch_ros.substitutions import FindPackageShare
import yaml

PACKAGE = 'sd_perception_ros'
# Layer: file of the costmap, and further parameter files of the node besides perception.yaml.
LAYERS = {
    'obstacle': ('costmap_obstacle_layer.yaml', ()),
    'voxel': ('costmap_voxel_layer.yaml', ()),
    'stvl': ('costmap_stvl.yaml', ()),
    'semantic': ('costmap_semantic_layer.yaml', ('perception_semantic.yaml',)),
}
# Mean mounting of the camera in the demo sequence, in metres and radians.
HEIGHT_M, PITCH_RAD, RIGHT_ANGLE = '1.15', '0.1134', '1.5708'


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments; `entities` runs when their values are known."""
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                'layer',
                default_value='obstacle',
                choices=list(LAYERS),
                description='Layer of the Nav2 costmap',
            ),
            DeclareLaunchArgument(
                'camera',
                default_value='true',
                choices=['true', 'false'],
                description='Publish the demo sequence; false: use an existing image_raw',
            ),
            OpaqueFunction(function=entities),
        ]
    )


def entities(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """Make the nodes. The camera is static in base_link, so no odometry is needed."""
    layer = LaunchConfiguration('layer').perform(context)
    camera = LaunchConfiguration('camera').perform(context)
    folder = Path(FindPackageShare(PACKAGE).perform(context)) / 'config' / 'nav2'
    fragment, more = LAYERS[layer]
    files = [str(folder / name) for name in ('perception.yaml', *more)]
    costmap = costmap_parameters(folder / fragment)
    perception = LifecycleNode(
        package=PACKAGE,
        executable='perception_node',
        name='perception',
        namespace='',
        parameters=files,
        output='screen',
    )
    sequence = Node(package=PACKAGE, executable='camera_node', name='camera', parameters=files[:1])
    return [
        perception,
        *([sequence] if camera == 'true' else []),
        transform('base_link', 'camera_link', '--z', HEIGHT_M, '--pitch', PITCH_RAD),
        transform(
            'camera_link',
            'camera_optical_frame',
            '--roll',
            f'-{RIGHT_ANGLE}',
            '--yaw',
            f'-{RIGHT_ANGLE}',
        ),
        Node(package='nav2_costmap_2d', executable='nav2_costmap_2d', parameters=[costmap]),
        Node(
            package='nav2_lifecycle_manager',
            executable='lifecycle_manager',
            name='lifecycle_manager_costmap',
            parameters=[{'autostart': True, 'node_names': ['costmap/costmap']}],
        ),
    ]


def transform(parent: str, child: str, *pose: str) -> Node:
    """Make a publisher of a static transform."""
    frames = ['--frame-id', parent, '--child-frame-id', child]
    return Node(
        package='tf2_ros', executable='static_transform_publisher', arguments=[*pose, *frames]
    )


def costmap_parameters(path: Path) -> dict[str, object]:
    """Read the parameters of a costmap; its global frame is base_link, without odometry."""
    content = yaml.safe_load(path.read_text(encoding='utf-8'))
    parameters = content['local_costmap']['local_costmap']['ros__parameters']
    return parameters | {'global_frame': 'base_link'}
