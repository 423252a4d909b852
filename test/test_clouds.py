"""Clouds and scans: what an obstacle map reads, point by point and beam by beam."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest
from sensor_msgs.msg import PointCloud2, PointField
from std_msgs.msg import Header

from sd_perception_ros.config import build
from sd_perception_ros.geometry.laser_scan import scan_ranges, ScanGeometry
from sd_perception_ros.geometry.pinhole import BODY_FROM_OPTICAL, mounting
from sd_perception_ros.geometry.point_cloud import voxel_means, without_edges
from sd_perception_ros.ros.frame import CameraFrame
from sd_perception_ros.ros.messages.laser_scan import scan_message
from sd_perception_ros.ros.messages.point_cloud import cloud_message
from sd_perception_ros.ros.options import OutputOptions
from sd_perception_ros.ros.output.outputs import OUTPUTS
from sd_perception_ros.ros.output.results import FrameResult, people_points, points
from sd_perception_ros.ros.output_options import PointsOptions, ScanOptions
from sd_perception_ros.tasks import make_task
from sd_perception_ros.types import Camera, DepthMap, LabelMap

# No square pixels, and no centre in the middle.
CAMERA = Camera(fx=32.0, fy=36.0, cx=30.0, cy=22.0, width=64, height=48)
HEADER = Header(frame_id='lens')
HEADER.stamp.sec = 7
RGB = np.full((48, 64, 3), (10, 20, 30), np.uint8)


def read(cloud: PointCloud2) -> np.ndarray:
    kinds = {PointField.FLOAT32: 'f4', PointField.UINT32: 'u4'}
    kind = np.dtype([(field.name, kinds[field.datatype]) for field in cloud.fields])
    assert [field.offset for field in cloud.fields] == [kind.fields[n][1] for n in kind.names]
    assert (cloud.point_step, cloud.row_step) == (kind.itemsize, kind.itemsize * cloud.width)
    assert len(cloud.data) == cloud.row_step * cloud.height
    return np.frombuffer(cloud.data, kind)


# ---- Points -------------------------------------------------------------------------------------


def test_pixels_at_a_depth_edge_are_removed():
    """A box at 1 m before a wall at 3 m: the columns on both sides of the edge are removed."""
    depth_m = np.full((5, 8), 3.0, np.float32)
    depth_m[:, :4] = 1.0
    kept = np.isfinite(without_edges(depth_m, 0.1))
    assert kept.all(0).tolist() == [True, True, True, False, False, True, True, True]
    assert np.isfinite(without_edges(depth_m, 0.0)).all()


def test_slopes_and_unknown_pixels_are_no_depth_edges():
    depth_m = np.tile(np.linspace(2, 3, 50, dtype=np.float32), (4, 1))
    depth_m[0, 20], depth_m[0, 30], depth_m[3, 9] = np.nan, np.inf, -np.inf
    filtered = without_edges(depth_m, 0.1)
    assert np.isfinite(filtered).sum() == 4 * 50 - 3
    assert np.isfinite(depth_m).sum() == 4 * 50 - 3


def test_a_voxel_has_the_mean_of_its_points():
    points = np.array([[0.01, 0, 0], [0.03, 0, 0], [-0.01, 0, 0], [0.12, 0, 0]], np.float32)
    means, first = voxel_means(points, 0.1)
    voxels = sorted((round(float(x), 4), int(i)) for x, i in zip(means[:, 0], first, strict=True))
    assert voxels == [(-0.01, 2), (0.02, 0), (0.12, 3)]
    means, first = voxel_means(points, 0.1, min_points=2)
    assert first.tolist() == [0]


@given(seed=st.integers(0, 999), side=st.floats(0.02, 2.0))
def test_voxel_means_are_among_their_points_and_in_different_voxels(seed, side):
    points = np.random.default_rng(seed).normal(0, 2, (200, 3)).astype(np.float32)
    means, first = voxel_means(points, side)
    assert len(np.unique(np.floor(points[first] / np.float32(side)), axis=0)) == len(means)
    assert np.abs(means - points[first]).max() <= side * 1.001
    assert len(means) <= 200


def test_an_organized_cloud_has_one_point_per_pixel():
    depth_m = np.full((48, 64), 2.0, np.float32)
    depth_m[0, 0] = np.nan
    cloud = cloud_message(depth_m, RGB, CAMERA, HEADER, PointsOptions(stride=2))
    points = read(cloud)
    assert (cloud.height, cloud.width, cloud.is_dense) == (24, 32, False)
    assert np.isnan(points['z']).sum() == 1
    assert set(points['rgb'].view('u4')) == {10 << 16 | 20 << 8 | 30}


@pytest.mark.parametrize(
    'options',
    [{}, {'stride': 2}, {'voxel_m': 0.05}],
    ids=['every pixel', 'every second', 'voxels'],
)
def test_a_cloud_has_no_flying_pixels(options):
    """A box at 1 m before a wall at 3 m, and three columns between them, as a network predicts."""
    depth_m = np.full((48, 64), 3.0, np.float32)
    depth_m[:, :30] = 1.0
    depth_m[:, 30:33] = [1.4, 2.0, 2.6]

    def depths(max_jump: float) -> np.ndarray:
        cloud = cloud_message(
            depth_m, RGB, CAMERA, HEADER, PointsOptions(max_relative_jump=max_jump, **options)
        )
        z = read(cloud)['z']
        return z[np.isfinite(z)]

    assert ((depths(0.0) > 1.3) & (depths(0.0) < 2.7)).any()
    assert set(depths(0.1).round(3).tolist()) == {1.0, 3.0}


def test_labels_are_the_classes_of_the_pixels():
    labels = np.zeros((48, 64), np.uint8)
    labels[:, 31:] = 5
    depth_m = np.full((48, 64), 2.0, np.float32)
    points = read(cloud_message(depth_m, RGB, CAMERA, HEADER, PointsOptions(), labels))
    assert points.dtype.itemsize == 20
    assert set(points['label'][points['x'] > 0]) == {5}
    assert set(points['label'][points['x'] < 0]) == {0}


def test_a_cloud_of_voxels_is_unorganized_and_finite():
    depth_m = np.full((48, 64), 2.0, np.float32)
    depth_m[:24] = np.nan
    options = PointsOptions(voxel_m=0.25)
    cloud = cloud_message(depth_m, RGB, CAMERA, HEADER, options, np.full((48, 64), 3, np.uint8))
    points = read(cloud)
    assert cloud.height == 1
    assert 40 < len(points) < 200
    assert np.isfinite(points['z']).all()
    np.testing.assert_allclose(points['z'], 2.0, rtol=1e-6)
    assert set(points['label']) == {3}


@pytest.mark.parametrize('options', [PointsOptions(), PointsOptions(voxel_m=0.1)])
def test_a_cloud_is_never_empty(options):
    """Nav2's obstacle layer regards a source as stale after an empty cloud."""
    nothing = np.full((48, 64), np.nan, np.float32)
    points = read(cloud_message(nothing, RGB, CAMERA, HEADER, options))
    assert len(points) >= 1
    assert np.isnan([points['x'], points['y'], points['z']]).all()


def result(options: dict, labels: np.ndarray | None) -> FrameResult:
    """Make the result of a frame: a wall at 2 m, with classes."""
    predictions = {'depth': DepthMap(np.full((48, 64), 0.5, np.float32))}
    if labels is not None:
        predictions['segmentation'] = LabelMap(labels, np.ones((48, 64), np.float32))
    return FrameResult(
        CameraFrame(HEADER, RGB, CAMERA),
        predictions,
        {name: make_task(name) for name in predictions},
        build(OutputOptions, {'depth': options}),
        np.full((48, 64), 2.0, np.float32),
    )


PEOPLE = np.zeros((48, 64), np.uint8)
PEOPLE[:, 40:] = make_task('segmentation').class_names.index('person')


def test_people_are_excluded_and_have_their_own_cloud():
    frame_result = result({'points': {'exclude_classes': ['person']}}, PEOPLE)
    z = read(points(frame_result, 'depth'))['z'].reshape(48, 64)
    assert np.isfinite(z).all(0).tolist() == [True] * 40 + [False] * 24
    people = read(people_points(frame_result, 'depth'))['z'].reshape(48, 64)
    assert (np.isfinite(people) == ~np.isfinite(z)).all()


def test_without_segmentation_there_is_no_cloud_with_classes():
    assert points(result({'points': {'add_label_field': True}}, None), 'depth') is None
    assert points(result({'points': {'exclude_classes': ['person']}}, None), 'depth') is None
    assert people_points(result({}, None), 'depth') is None
    assert points(result({}, None), 'depth') is not None


def test_outputs_with_classes_need_segmentation():
    needs = {output.topic: output.needs for output in OUTPUTS}
    with_labels = build(OutputOptions, {'depth': {'points': {'add_label_field': True}}})
    assert needs['depth/points'](OutputOptions()) == ()
    assert needs['depth/points'](with_labels) == ('segmentation',)
    assert needs['depth/points_people'](OutputOptions()) == ('segmentation',)


# ---- Scans --------------------------------------------------------------------------------------

# The camera is 0.5 m above the scan's frame and level.
SCAN_FROM_OPTICAL = mounting(0.0, 0.0, 0.5, 0.0, 0.0, 0.0).after(BODY_FROM_OPTICAL)
GEOMETRY = ScanGeometry(
    math.radians(-60),
    math.radians(60),
    math.radians(5),
    0.1,
    5.0,
    0.1,
    1.5,
    min_points=1,
    free_margin=0.2,
)
AHEAD, ASIDE = 12, 0  # the beams at 0 and -60 degrees; the camera sees to 45


def floor_and(wall_m: float) -> np.ndarray:
    """Return the depth of a floor 0.5 m below the camera, and a wall (or +Inf) at a distance."""
    rows = (np.arange(48) - CAMERA.cy) / CAMERA.fy
    floor_m = np.where(rows > 0, 0.5 / np.maximum(rows, 1e-6), np.inf)
    return (np.minimum(floor_m, wall_m)[:, None] + np.zeros(64)).astype(np.float32)


def test_the_range_of_a_wall_grows_with_the_angle():
    ranges_m = scan_ranges(floor_and(2.0), CAMERA, SCAN_FROM_OPTICAL, GEOMETRY)
    assert ranges_m[AHEAD] == pytest.approx(2.0, abs=0.01)
    assert ranges_m[AHEAD + 6] == pytest.approx(2.0 / math.cos(math.radians(30)), abs=0.1)
    assert np.isnan(ranges_m[ASIDE])


def test_the_floor_is_no_obstacle_and_infinite_depth_is_free():
    ranges_m = scan_ranges(floor_and(np.inf), CAMERA, SCAN_FROM_OPTICAL, GEOMETRY)
    assert np.isposinf(ranges_m[4:21]).all()
    assert np.isnan(ranges_m[[0, 1, 23, 24]]).all()


def test_a_wall_just_beyond_the_range_is_not_free():
    """At 5.5 m, less than 20 % beyond the range of 5 m: within the error of the depth."""
    assert np.isnan(scan_ranges(floor_and(5.5), CAMERA, SCAN_FROM_OPTICAL, GEOMETRY)[AHEAD])
    assert np.isposinf(scan_ranges(floor_and(6.5), CAMERA, SCAN_FROM_OPTICAL, GEOMETRY)[AHEAD])


def test_unknown_depth_is_not_free():
    depth_m = floor_and(np.inf)
    depth_m[20:30, 30:34] = np.nan
    ranges_m = scan_ranges(depth_m, CAMERA, SCAN_FROM_OPTICAL, GEOMETRY)
    assert np.isnan(ranges_m[AHEAD])
    assert np.isposinf(ranges_m[AHEAD + 5])


def test_an_obstacle_that_is_too_near_is_minus_infinity():
    depth_m = floor_and(np.inf)
    depth_m[20:30, 30:34] = -np.inf
    assert np.isneginf(scan_ranges(depth_m, CAMERA, SCAN_FROM_OPTICAL, GEOMETRY)[AHEAD])


def test_a_beam_that_sees_only_the_floor_is_nan():
    down = mounting(0.0, 0.0, 0.5, 0.0, 60.0, 0.0).after(BODY_FROM_OPTICAL)
    ray = down.rotation @ np.array([0, 0, 1.0])
    assert ray[2] < 0
    depth_m = np.full((48, 64), 0.3, np.float32)
    ranges_m = scan_ranges(depth_m, CAMERA, down, GEOMETRY)
    assert not np.isposinf(ranges_m).any()


def test_points_above_the_height_band_are_no_obstacle():
    depth_m = floor_and(np.inf)
    depth_m[:4] = 3.0  # rows far above the centre: 3 * 23.5 / 32 = 2.2 m higher
    assert np.isposinf(scan_ranges(depth_m, CAMERA, SCAN_FROM_OPTICAL, GEOMETRY)[AHEAD])


def test_fewer_points_than_the_minimum_are_noise():
    depth_m = floor_and(3.0)
    depth_m[22, 31] = 1.0
    strict = ScanGeometry(**{**vars(GEOMETRY), 'min_points': 3})
    for geometry, range_m in ((GEOMETRY, 1.0), (strict, 3.0)):
        ranges_m = scan_ranges(depth_m, CAMERA, SCAN_FROM_OPTICAL, geometry)
        assert ranges_m[AHEAD] == pytest.approx(range_m, abs=0.01)


@given(wall=st.floats(0.5, 4.5), yaw=st.floats(-40, 40), height=st.floats(0.2, 1.2))
def test_no_beam_ends_before_the_nearest_point_of_a_wall(wall, yaw, height):
    scan_from_optical = mounting(0.0, 0.0, height, 0.0, 0.0, yaw).after(BODY_FROM_OPTICAL)
    ranges_m = scan_ranges(
        np.full((48, 64), wall, np.float32), CAMERA, scan_from_optical, GEOMETRY
    )
    assert np.nanmin(ranges_m) >= wall * 0.999
    assert np.nanmin(ranges_m) <= wall * 1.05


def test_the_message_describes_the_beams():
    options = ScanOptions(frame_id='base_link', increment_deg=5.0, max_range_m=5.0, min_points=1)
    scan = scan_message(floor_and(2.0), CAMERA, SCAN_FROM_OPTICAL, HEADER, options)
    assert (scan.header.frame_id, scan.header.stamp) == ('base_link', HEADER.stamp)
    assert len(scan.ranges) == 25
    assert scan.angle_min + 24 * scan.angle_increment == pytest.approx(scan.angle_max)
    assert scan.angle_max == pytest.approx(math.radians(60))
    assert (scan.range_min, scan.range_max) == pytest.approx((0.1, 5.0))
    assert scan.ranges[12] == pytest.approx(2.0, abs=0.01)


def test_a_scan_of_zero_width_is_refused():
    with pytest.raises(ValueError, match='min_angle_deg must be less than max_angle_deg'):
        ScanOptions(min_angle_deg=60.0)
