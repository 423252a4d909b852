"""What Nav2's layers read is what the node sends, and the cells that they mark are true."""

from __future__ import annotations

from pathlib import Path
import runpy
from typing import Any

import numpy as np
import pytest
from sensor_msgs.msg import LaserScan, PointCloud2, PointField
from std_msgs.msg import Header
import yaml

from sd_perception_ros.config import build
from sd_perception_ros.data.formats.rooms import RoomsDataset
from sd_perception_ros.engine import Engine
from sd_perception_ros.geometry.occupancy_grid import (
    compare,
    grid_from_points,
    GridGeometry,
    MAX_RELATIVE_JUMP,
    VOXEL_M,
    VOXEL_MIN_POINTS,
)
from sd_perception_ros.geometry.pinhole import back_project, BODY_FROM_OPTICAL, mounting
from sd_perception_ros.geometry.point_cloud import without_edges
from sd_perception_ros.ros.messages.point_cloud import cloud_message
from sd_perception_ros.ros.node.parameters import parameter_names
from sd_perception_ros.ros.options import CameraOptions, OutputOptions
from sd_perception_ros.ros.output.outputs import MODEL_OUTPUTS, OUTPUTS
from sd_perception_ros.ros.perception_node import GROUPS
from sd_perception_ros.ros.replay.recorder import cloud_values
from sd_perception_ros.ros.replay.sources import DEMO, open_source
from sd_perception_ros.tasks import make_task

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / 'config' / 'nav2'
COSTMAPS = sorted(FOLDER.glob('costmap_*.yaml'))
TOPICS = {f'/{output.topic}': output.msg_type for output in (*OUTPUTS, *MODEL_OUTPUTS)}
KINDS = {
    'PointCloud2': PointCloud2,
    'LaserScan': LaserScan,
    'pointcloud': PointCloud2,
    'scan': LaserScan,
}
CLASSES = make_task('segmentation').class_names
METRIC_DEPTH = runpy.run_path(str(ROOT / 'benchmark' / 'metric_depth.py'))


def read(name: str) -> dict[str, Any]:
    return yaml.safe_load((FOLDER / name).read_text())


def costmap(path: Path) -> dict[str, Any]:
    return read(path.name)['local_costmap']['local_costmap']['ros__parameters']


def node_options(*names: str) -> OutputOptions:
    """Merge parameter files as ROS does, and build the node's options of outputs."""
    merged: dict[str, Any] = {}
    for name in names:
        _merge(merged, read(name)['/**/perception']['ros__parameters'])
    kept = {key: merged[key] for key in ('depth', 'scan')}
    return build(OutputOptions, kept)


def _merge(into: dict[str, Any], values: dict[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, dict):
            _merge(into.setdefault(key, {}), value)
        else:
            into[key] = value


def sources(parameters: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """List the observation sources of a costmap or of the collision monitor."""
    sources_found = {}
    layers = [v for v in parameters.values() if isinstance(v, dict) and 'observation_sources' in v]
    for layer in layers or [parameters]:
        names = layer['observation_sources']
        for name in names.split() if isinstance(names, str) else names:
            sources_found[name] = layer[name]
    return sources_found


def test_the_files_are_those_that_the_launch_file_offers():
    text = (ROOT / 'launch' / 'nav2_demo.launch.py').read_text()
    compile(text, 'nav2_demo.launch.py', 'exec')
    assert [path.name for path in COSTMAPS if path.name not in text] == []
    assert "'perception.yaml'" in text
    assert "'perception_semantic.yaml'" in text
    assert "executable='perception_node'" in text


def test_the_node_has_the_parameters_that_its_files_set():
    known = {name for cls, prefix in GROUPS for name in parameter_names(cls, prefix)}

    def flat(values: dict[str, Any], prefix: str = '') -> set[str]:
        return set().union(
            *(
                flat(value, f'{prefix}{key}.') if isinstance(value, dict) else {prefix + key}
                for key, value in values.items()
            )
        )

    for name in ('perception.yaml', 'perception_semantic.yaml'):
        assert flat(read(name)['/**/perception']['ros__parameters']) <= known
    assert set(read('perception.yaml')['/**/camera']['ros__parameters']) <= set(
        parameter_names(CameraOptions)
    )
    options = node_options('perception.yaml')
    assert options.scan.frame_id == 'base_link'
    assert set(options.depth.points.exclude_classes) <= set(CLASSES)


@pytest.mark.parametrize(
    'path', [*COSTMAPS, FOLDER / 'collision_monitor.yaml'], ids=lambda p: p.stem
)
def test_every_source_is_a_topic_of_the_node_and_of_its_type(path):
    parameters = (
        costmap(path)
        if path in COSTMAPS
        else read(path.name)['collision_monitor']['ros__parameters']
    )
    for source in sources(parameters).values():
        named = {key: value for key, value in source.items() if key.endswith('topic')}
        assert named
        assert set(named.values()) <= set(TOPICS)
        kind = source.get('data_type', source.get('type'))
        if kind:
            assert TOPICS[source['topic']] is KINDS[kind]


@pytest.mark.parametrize('path', COSTMAPS, ids=lambda p: p.stem)
def test_the_sources_of_a_costmap_fit_the_outputs_of_the_node(path):
    """Unsuitable defaults: no cloud at all, no height, and +Inf that clears too little."""
    parameters, options = costmap(path), node_options('perception.yaml')
    radius_m = parameters['width'] / 2
    assert options.scan.max_range_m > radius_m
    assert options.depth.max_range_m > radius_m
    assert parameters['robot_base_frame'] == options.scan.frame_id
    given = sources(parameters).values()
    assert any(source.get('clearing', True) for source in given)
    assert any(source.get('marking', True) for source in given)
    for source in given:
        if source.get('data_type') == 'PointCloud2' and source['marking']:
            assert 0.1 <= source['min_obstacle_height'] < source['max_obstacle_height']
        reach = source.get('obstacle_max_range', source.get('obstacle_range', 0))
        assert source.get('raytrace_max_range', reach) >= reach
        if source.get('inf_is_valid'):
            assert source['raytrace_max_range'] < options.scan.max_range_m


def test_the_voxel_layer_covers_the_heights_that_it_marks():
    layer = costmap(FOLDER / 'costmap_voxel_layer.yaml')['voxel_layer']
    assert layer['z_voxels'] <= 16
    top_m = layer['origin_z'] + layer['z_voxels'] * layer['z_resolution']
    assert layer['cloud']['max_obstacle_height'] <= top_m


def test_occupancy_grids_use_the_options_of_the_nav2_cloud():
    points = node_options('perception.yaml').depth.points
    assert (points.max_relative_jump, points.voxel_m, points.voxel_min_points) == (
        MAX_RELATIVE_JUMP,
        VOXEL_M,
        VOXEL_MIN_POINTS,
    )


def test_the_semantic_layer_finds_its_classes_and_an_organized_cloud():
    camera = costmap(FOLDER / 'costmap_semantic_layer.yaml')['semantic_layer']['camera']
    named = [name for kind in camera['class_types'] for name in camera[kind]['classes']]
    assert set(named) <= set(CLASSES)
    assert len(set(named)) == len(named)
    points = node_options('perception.yaml', 'perception_semantic.yaml').depth.points
    assert (points.stride, points.voxel_m, points.needs_classes) == (1, 0.0, False)


# ---- Messages as the layers read them -----------------------------------------------------------


def points_of(cloud: PointCloud2) -> np.ndarray:
    """Read a cloud as PointCloud2ConstIterator<float> does: three float32 at their offsets."""
    fields = {field.name: field for field in cloud.fields}
    assert all(fields[axis].datatype == PointField.FLOAT32 for axis in 'xyz')
    assert cloud.row_step == cloud.width * cloud.point_step, 'rows are padded'
    assert cloud.width * cloud.height > 0, 'the layer waits for ever after an empty cloud'
    values = cloud_values(cloud)
    return np.stack([values[axis] for axis in 'xyz'], axis=-1)


@pytest.mark.parametrize(
    'names', [('perception.yaml',), ('perception.yaml', 'perception_semantic.yaml')]
)
@pytest.mark.parametrize('index', [0, 40])
def test_the_cells_of_a_true_depth_are_the_true_cells(index, names):
    """The film's own depth, through the node's cloud and the layer's rules, against all pixels."""
    options = node_options(*names).depth.points
    truth, shot = RoomsDataset(DEMO / 'frames')[index], open_source('demo').frame(index)
    depth_m = truth['depth_m'][0, 0].numpy()
    cloud = cloud_message(depth_m, shot.rgb, shot.camera, Header(), options)
    base_from_camera = mounting(0, 0, 1.15, 0, 5.0 if index == 0 else 7.5, 0)
    base_from_optical = base_from_camera.after(BODY_FROM_OPTICAL)
    sensor_m = base_from_optical.translation
    geometry = GridGeometry(resolution_m=0.1)
    points = base_from_optical.apply(points_of(cloud))
    predicted = grid_from_points(points, sensor_m, geometry)
    points = base_from_optical.apply(back_project(depth_m, shot.camera))
    true = grid_from_points(points, sensor_m, geometry)
    assert true.sum() > 50
    scores = compare(predicted, true, tolerance=1)
    assert scores.precision > 0.98
    assert scores.recall > 0.9
    assert scores.phantoms == 0


def test_the_edge_filter_removes_phantoms_at_depth_edges():
    """A box at 1 m before a wall at 3 m, smeared as a network does: points fill the gap."""
    depth_m = np.full((48, 64), 3.0, np.float32)
    depth_m[:, 20:44] = 1.0
    depth_m[:, 43:46] = [1.4, 2.0, 2.6]
    camera = open_source('demo').frame(0).camera
    small = type(camera)(60.0, 60.0, 31.5, 23.5, 64, 48)
    between = [
        ((points[..., 2] > 1.2) & (points[..., 2] < 2.8)).sum()
        for points in (
            back_project(depth_m, small),
            back_project(without_edges(depth_m, 0.04), small),
        )
    ]
    assert between == [3 * 48, 0]


def test_predicted_cells_of_the_demo_sequence_are_near_the_true_ones():
    engine = Engine.load('bundled', device='cpu')
    shots = list(METRIC_DEPTH['film'](engine, DEMO, 4))
    result = METRIC_DEPTH['measure'](engine, shots, 'depth', 0.01, 0.0)
    assert result['sparse']['abs_rel'] < 0.12
    assert result['sparse']['jitter'] < 0.02
    cells = result['sparse']['cells']
    assert 0 < cells['0 m']['f1'] < cells['0.2 m']['f1'] <= 1
    words = METRIC_DEPTH['table'](result)
    assert 'false obstacles a frame' in words
    assert ('FAILS' in words) != result['passes']
