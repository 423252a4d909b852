"""A costmap from one camera: the film, the perception node, and one layer of Nav2."""

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
# Layer: the file of its costmap, and what the node needs on top of perception.yaml.
LAYERS = {
    'obstacle': ('costmap_obstacle_layer.yaml', ()),
    'voxel': ('costmap_voxel_layer.yaml', ()),
    'stvl': ('costmap_stvl.yaml', ()),
    'semantic': ('costmap_semantic_layer.yaml', ('perception_semantic.yaml',)),
}
# Where the camera of the film is: in metres and radians, above and below which it sways a little.
HEIGHT_M, PITCH_RAD, RIGHT_ANGLE = '1.15', '0.1134', '1.5708'


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments; what depends on their values is made when they are known."""
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                'layer',
                default_value='obstacle',
                choices=list(LAYERS),
                description='Which layer of Nav2 makes the costmap',
            ),
            DeclareLaunchArgument(
                'camera',
                default_value='true',
                choices=['true', 'false'],
                description='Replay the film; false: image_raw is there',
            ),
            OpaqueFunction(function=entities),
        ]
    )


def entities(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """Make the nodes: the film stands still in base_link, so no odometry is needed."""
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
    film = Node(package=PACKAGE, executable='camera_node', name='camera', parameters=files[:1])
    return [
        perception,
        *([film] if camera == 'true' else []),
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


def transform(parent: str, child: str, *place: str) -> Node:
    """Make a node that says where one frame is in another."""
    frames = ['--frame-id', parent, '--child-frame-id', child]
    return Node(
        package='tf2_ros', executable='static_transform_publisher', arguments=[*place, *frames]
    )


def costmap_parameters(path: Path) -> dict[str, object]:
    """Read the parameters of a fragment, for a costmap that stands still with the camera."""
    content = yaml.safe_load(path.read_text(encoding='utf-8'))
    own = content['local_costmap']['local_costmap']['ros__parameters']
    return own | {'global_frame': 'base_link'}
