"""Messages of people: markers for RViz, and a point cloud of joints."""

from __future__ import annotations

import math

from builtin_interfaces.msg import Duration
from geometry_msgs.msg import Point
import numpy as np
from sensor_msgs.msg import PointCloud2
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from sd_perception_ros.drawing import bone_side, SIDE_COLORS
from sd_perception_ros.ros.messages.point_cloud import pack_points
from sd_perception_ros.skeleton import BONES, JOINTS, side, WHOLE_BODY
from sd_perception_ros.types import Float, Poses

# 28 bytes without padding: a multiple of 4, so that readers can use the data without a copy.
POINT = np.dtype(
    [
        *((name, '<f4') for name in ('x', 'y', 'z', 'u', 'v', 'score')),
        *((name, '<u2') for name in ('joint', 'person')),
    ]
)


def markers_message(
    joints_m: Float, people_before: int, header: Header, size_m: float, lifetime_s: float
) -> MarkerArray:
    """
    Make spheres (namespace joints) and lines (namespace bones) for each person.

    Feet, face and hands of the whole body are smaller spheres (namespace points).

    :param joints_m: (P, 17, 3) or (P, 133, 3) in the optical frame; a joint with NaN is left out.
    :param people_before: number of people in the previous message; others are deleted.
    :param size_m: diameter of a joint.
    :param lifetime_s: time after which viewers delete a marker; 0: never.
    """
    colors = {
        name: ColorRGBA(r=r / 255, g=g / 255, b=b / 255, a=1.0)
        for name, (r, g, b) in SIDE_COLORS.items()
    }
    joint_colors = [colors[side(joint)] for joint in range(len(WHOLE_BODY))]
    bone_colors = [colors[bone_side(bone)] for bone in BONES]
    nanoseconds = round(lifetime_s * 1e9)
    lifetime = Duration(sec=nanoseconds // 10**9, nanosec=nanoseconds % 10**9)
    has_points = joints_m.shape[1] > len(JOINTS)
    message = MarkerArray()
    for number in range(max(len(joints_m), people_before)):
        joints = Marker(ns='joints', id=number, type=Marker.SPHERE_LIST)
        bones = Marker(ns='bones', id=number, type=Marker.LINE_LIST)
        points = Marker(ns='points', id=number, type=Marker.SPHERE_LIST)
        joints.scale.x = joints.scale.y = joints.scale.z = float(size_m)
        points.scale.x = points.scale.y = points.scale.z = size_m / 4
        bones.scale.x = size_m / 3
        if number < len(joints_m):
            _set_person(joints, points, bones, joints_m[number], joint_colors, bone_colors)
        for marker in (joints, bones, points) if has_points else (joints, bones):
            marker.header = header
            marker.lifetime = lifetime
            marker.action = Marker.ADD if marker.points else Marker.DELETE
            message.markers.append(marker)
    return message


def _set_person(
    joints: Marker,
    points: Marker,
    bones: Marker,
    joints_m: Float,
    joint_colors: list[ColorRGBA],
    bone_colors: list[ColorRGBA],
) -> None:
    """Set points and colours of the markers of one person; joints_m is (17 or 133, 3)."""
    positions = {
        joint: Point(x=x, y=y, z=z)
        for joint, (x, y, z) in enumerate(joints_m.tolist())
        if not math.isnan(z)
    }
    body = [joint for joint in positions if joint < len(JOINTS)]
    others = [joint for joint in positions if joint >= len(JOINTS)]
    for marker, indices in ((joints, body), (points, others)):
        marker.points = [positions[joint] for joint in indices]
        marker.colors = [joint_colors[joint] for joint in indices]
    known = [i for i, (a, b) in enumerate(BONES) if a in positions and b in positions]
    bones.points = [positions[joint] for i in known for joint in BONES[i]]
    bones.colors = [bone_colors[i] for i in known for _ in range(2)]


def keypoints_message(poses: Poses, joints_m: Float | None, header: Header) -> PointCloud2:
    """
    Make a cloud with one point for each detected joint, person after person.

    Fields: x, y, z in metres in the optical frame, NaN if unknown; u, v in pixels; score 0..1;
    joint, the index in `skeleton.JOINTS`, or in `skeleton.WHOLE_BODY` (which begins with the
    same 17); person, the index in this image.

    :param joints_m: (P, 17, 3) or (P, 133, 3), or None without metric depth.
    """
    people = [person.joints for person in poses.people]
    joints = np.stack(people) if people else np.empty((0, len(JOINTS), 3), np.float32)
    person, joint = np.nonzero(np.isfinite(joints[..., 0]))
    points = np.empty(len(person), POINT)
    xyz_m = np.full(joints.shape, np.nan) if joints_m is None else joints_m
    for i, name in enumerate(('x', 'y', 'z')):
        points[name] = xyz_m[person, joint, i]
    for i, name in enumerate(('u', 'v', 'score')):
        points[name] = joints[person, joint, i]
    points['joint'], points['person'] = joint, person
    return pack_points(points, header)
