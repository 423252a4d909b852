"""Messages of predictions, without a node: labels, masks, people."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import rclpy.node  # noqa: F401 (this file needs ROS)
from sensor_msgs.msg import PointCloud2
from std_msgs.msg import Header
from visualization_msgs.msg import Marker, MarkerArray

from sd_perception_ros.config import build
from sd_perception_ros.drawing import SIDE_COLORS
from sd_perception_ros.ros.frame import CameraFrame
from sd_perception_ros.ros.messages import labels
from sd_perception_ros.ros.messages.image import to_mono8
from sd_perception_ros.ros.messages.labels import class_mask, label_info, mask_ids
from sd_perception_ros.ros.messages.people import keypoints_message, markers_message, POINT
from sd_perception_ros.ros.options import OutputOptions, SegmentationOptions
from sd_perception_ros.ros.output.outputs import OUTPUTS
from sd_perception_ros.ros.output.results import (
    cutout_image,
    FrameResult,
    keypoints,
    markers,
    overlay_image,
)
from sd_perception_ros.skeleton import INDEX
from sd_perception_ros.tasks import make_task, TASKS
from sd_perception_ros.types import Camera, Matte, Person, Poses

# No square pixels, and no centre in the middle: at 2 m, 10 px to the right of the axis are 0.2 m,
# but 10 px below it are 0.4 m.
CAMERA = Camera(fx=100, fy=50, cx=50, cy=30, width=100, height=80)
HEADER = Header(frame_id='lens')
HEADER.stamp.sec = 7
NOSE, EYE, WRIST = INDEX['nose'], INDEX['left_eye'], INDEX['left_wrist']


def person_with(**joints: tuple[float, float]) -> Person:
    """Make a person with these visible joints alone, at (u, v)."""
    values = np.full((17, 3), np.nan, np.float32)
    values[:, 2] = 0
    for name, uv in joints.items():
        values[INDEX[name]] = *uv, 0.5
    return Person(values, np.isfinite(values[:, 0]), 0.9)


def result(
    *people: Person,
    options: dict | None = None,
    depth_m: float | None = None,
    before: int = 0,
    camera: Camera | None = CAMERA,
    frame_id: str = 'lens',
) -> FrameResult:
    """Make the result of a frame with people in front of a wall."""
    header = Header(stamp=HEADER.stamp, frame_id=frame_id)
    return FrameResult(
        CameraFrame(header, np.zeros((80, 100, 3), np.uint8), camera),
        {'human_pose': Poses(people, 80, 100)},
        {'human_pose': make_task('human_pose')},
        build(OutputOptions, options or {}),
        None if depth_m is None else np.full((80, 100), depth_m, np.float32),
        people_before=before,
    )


def markers_of(*people: Person, **values: Any) -> MarkerArray | None:
    return markers(result(*people, **values), 'human_pose')


def keypoints_of(*people: Person, **values: Any) -> PointCloud2 | None:
    return keypoints(result(*people, **values), 'human_pose')


def coordinates(marker: Marker) -> list[float]:
    return [value for point in marker.points for value in (point.x, point.y, point.z)]


# ---- The table ------------------------------------------------------------------------------


def test_every_task_has_topics_and_can_be_disabled():
    assert {output.task for output in OUTPUTS} == set(TASKS)
    options = OutputOptions()
    assert [name for name in TASKS if not getattr(options, name).enabled] == []


# ---- Labels ---------------------------------------------------------------------------------


def test_a_mask_is_white_at_pixels_of_its_classes():
    names = ('floor', 'person', 'dog')
    ids = mask_ids(names, SegmentationOptions(mask_classes=['dog', 'floor']))
    assert ids == [0, 2]
    values = np.array([[0, 1, 2], [2, 1, 255]], np.uint8)
    assert class_mask(values, ids).tolist() == [[255, 0, 255], [255, 0, 0]]


def test_a_class_that_the_checkpoint_lacks_is_refused_with_the_list_of_names():
    with pytest.raises(ValueError, match="has no class 'cat'; choose from: floor, person"):
        mask_ids(('floor', 'person'), SegmentationOptions(mask_classes=['person', 'cat']))


def test_a_checkpoint_without_the_default_class_has_no_mask_and_no_error():
    assert mask_ids(('floor', 'wall'), SegmentationOptions()) == []


def test_without_vision_msgs_class_names_are_published_as_json(monkeypatch):
    monkeypatch.setattr(labels, 'LabelInfo', None)
    told = json.loads(label_info(('floor', 'person')).data)
    assert told == {
        'class_map': [
            {'class_id': 0, 'class_name': 'floor'},
            {'class_id': 1, 'class_name': 'person'},
        ],
        'threshold': 0.0,
    }


def test_with_vision_msgs_class_names_are_published_as_label_info(monkeypatch):
    monkeypatch.setattr(labels, 'LabelInfo', SimpleNamespace)
    monkeypatch.setattr(labels, 'VisionClass', SimpleNamespace)
    classes = label_info(('floor', 'person')).class_map
    assert [(c.class_id, c.class_name) for c in classes] == [(0, 'floor'), (1, 'person')]


def test_0_to_1_becomes_0_to_255():
    values = np.array([[0, 0.5, 1], [-0.2, 1.5, 0.001]], np.float32)
    assert to_mono8(values).tolist() == [[0, 128, 255], [0, 255, 0]]


def test_a_cutout_shows_the_image_in_the_foreground():
    frame = CameraFrame(HEADER, np.full((80, 100, 3), (9, 90, 200), np.uint8))
    alpha = np.zeros((80, 100), np.float32)
    alpha[:, 50:] = 1
    task = {'matting': make_task('matting')}
    message = cutout_image(FrameResult(frame, {'matting': Matte(alpha)}, task), 'matting')
    pixels = np.frombuffer(message.data, np.uint8).reshape(80, 100, 3)
    assert (pixels[:, 50:] == (9, 90, 200)).all()
    assert (pixels[:, :50] != (9, 90, 200)).all()
    assert (message.header, message.encoding) == (HEADER, 'rgb8')


# ---- Markers --------------------------------------------------------------------------------


def test_markers_are_in_space_with_metric_depth():
    """At 2 m, 10 px to the right of the axis are 0.2 m, 20 px below it 0.8 m."""
    person = person_with(nose=(60, 50), left_eye=(50, 30))
    joints, bones = markers_of(person, depth_m=2.0).markers
    assert coordinates(joints) == pytest.approx([0.2, 0.8, 2.0, 0.0, 0.0, 2.0])
    assert coordinates(bones) == pytest.approx([0.2, 0.8, 2.0, 0.0, 0.0, 2.0])
    assert (joints.ns, joints.type, joints.id) == ('joints', Marker.SPHERE_LIST, 0)
    assert (bones.ns, bones.type, bones.id) == ('bones', Marker.LINE_LIST, 0)
    assert joints.header == bones.header == HEADER
    assert (joints.action, joints.pose.orientation.w) == (Marker.ADD, 1.0)


def test_markers_are_on_a_plane_without_metric_depth():
    person = person_with(nose=(60, 50))
    options = {'human_pose': {'plane_distance_m': 3.0, 'marker_lifetime_s': 1.5}}
    joints, bones = markers_of(person, options=options).markers
    assert coordinates(joints) == pytest.approx([0.3, 1.2, 3.0])
    assert (joints.lifetime.sec, joints.lifetime.nanosec) == (1, 500_000_000)
    assert (bones.action, bones.points) == (Marker.DELETE, [])


def test_each_side_has_its_colour():
    person = person_with(nose=(60, 50), left_eye=(50, 40), right_eye=(70, 40))
    joints, bones = markers_of(person).markers
    colors = [tuple(round(255 * c) for c in (m.r, m.g, m.b)) for m in joints.colors]
    assert colors == [SIDE_COLORS[name] for name in ('middle', 'left', 'right')]
    assert len(bones.colors) == len(bones.points) == 6
    assert {color.a for color in [*joints.colors, *bones.colors]} == {1.0}


def test_markers_of_missing_people_are_deleted_once():
    two, nobody = [person_with(nose=(60, 50))] * 2, []
    told = [
        [(m.ns, m.id, m.action) for m in markers_of(*people, before=before).markers]
        for people, before in ((two, 0), (nobody, 2), (nobody, 0))
    ]
    deleted = [(ns, i, Marker.DELETE) for i in (0, 1) for ns in ('joints', 'bones')]
    assert [action for *_, action in told[0]] == [0, 2, 0, 2]  # a nose has no bone
    assert told[1:] == [deleted, []]


def test_a_person_without_a_depth_is_deleted_and_not_drawn_at_nan():
    markers = markers_of(person_with(nose=(60, 50)), depth_m=math.nan).markers
    assert [(m.action, m.points) for m in markers] == [(Marker.DELETE, [])] * 2


def test_without_intrinsics_or_a_frame_there_are_no_markers():
    assert markers_of(person_with(nose=(60, 50)), camera=None) is None
    assert markers_of(person_with(nose=(60, 50)), frame_id='') is None


def test_a_lifetime_of_zero_is_unlimited():
    [joints, _] = markers_message(np.zeros((1, 17, 3), np.float32), 0, HEADER, 0.1, 0.0).markers
    assert (joints.lifetime.sec, joints.lifetime.nanosec) == (0, 0)


# ---- Keypoints ------------------------------------------------------------------------------


def test_keypoints_have_one_point_for_each_detected_joint():
    people = (person_with(nose=(60, 50)), person_with(left_eye=(50, 40), left_wrist=(20, 10)))
    cloud = keypoints_of(*people, depth_m=2.0)
    assert (cloud.header, cloud.height, cloud.width) == (HEADER, 1, 3)
    assert (cloud.point_step, cloud.row_step, cloud.is_dense) == (28, 84, False)
    assert [(f.name, f.offset, f.datatype) for f in cloud.fields] == [
        *[('x', 0, 7), ('y', 4, 7), ('z', 8, 7), ('u', 12, 7), ('v', 16, 7), ('score', 20, 7)],
        *[('joint', 24, 4), ('person', 26, 4)],
    ]
    first, *others = np.frombuffer(cloud.data, POINT).tolist()
    assert first == pytest.approx((0.2, 0.8, 2.0, 60, 50, 0.5, NOSE, 0))
    assert [point[6:] for point in others] == [(EYE, 1), (WRIST, 1)]


def test_keypoints_without_metric_depth_have_nan_in_space_and_image_coordinates():
    for cloud in (
        keypoints_of(person_with(nose=(60, 50))),
        keypoints_of(person_with(nose=(60, 50)), camera=None, depth_m=2.0),
    ):
        [point] = np.frombuffer(cloud.data, POINT).tolist()
        assert all(map(math.isnan, point[:3]))
        assert point[3:6] == (60, 50, 0.5)


def test_without_people_there_are_no_points_and_no_error():
    cloud = keypoints_of(depth_m=2.0)
    assert (cloud.width, cloud.row_step, len(cloud.data)) == (0, 0, 0)
    assert keypoints_message(Poses((), 80, 100), None, HEADER).width == 0
    assert markers_of(depth_m=2.0).markers == []


def test_other_readers_of_clouds_see_the_same_points():
    point_cloud2 = pytest.importorskip('sensor_msgs_py.point_cloud2')
    cloud = keypoints_of(person_with(nose=(60, 50)))
    [point] = point_cloud2.read_points(cloud)
    assert (point['u'], point['joint']) == (60, NOSE)


def test_the_overlay_is_the_image_with_skeletons():
    overlay = overlay_image(result(person_with(nose=(60, 50))), 'human_pose')
    pixels = np.frombuffer(overlay.data, np.uint8).reshape(80, 100, 3)
    assert tuple(pixels[50, 60]) == SIDE_COLORS['middle']
    assert not pixels[:30].any()
