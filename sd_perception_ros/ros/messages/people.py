"""People as messages: markers for RViz, and a point for each joint."""

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

# Packed without gaps: 28 bytes, a multiple of 4, so that every reader may view it as it is.
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
    Show each person as spheres (namespace joints) and lines (bones); the id is their number.

    Feet, face and hands of the whole body are smaller spheres (namespace points).

    :param joints_m: (P, 17, 3) or (P, 133, 3) in the optical frame; a joint with NaN is left out.
    :param people_before: how many the last message showed: those who are gone are deleted.
    :param size_m: diameter of a joint.
    :param lifetime_s: when viewers take a marker down by themselves; 0: never.
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
            _fill(joints, points, bones, joints_m[number], joint_colors, bone_colors)
        for marker in (joints, bones, points) if has_points else (joints, bones):
            marker.header = header
            marker.lifetime = lifetime
            marker.action = Marker.ADD if marker.points else Marker.DELETE
            message.markers.append(marker)
    return message


def _fill(
    joints: Marker,
    details: Marker,
    bones: Marker,
    joints_m: Float,
    joint_colors: list[ColorRGBA],
    bone_colors: list[ColorRGBA],
) -> None:
    """Give one person's markers their points."""
    points = {
        joint: Point(x=x, y=y, z=z)
        for joint, (x, y, z) in enumerate(joints_m.tolist())
        if not math.isnan(z)
    }
    body = [joint for joint in points if joint < len(JOINTS)]
    rest = [joint for joint in points if joint >= len(JOINTS)]
    for marker, some in ((joints, body), (details, rest)):
        marker.points = [points[joint] for joint in some]
        marker.colors = [joint_colors[joint] for joint in some]
    found = [i for i, (a, b) in enumerate(BONES) if a in points and b in points]
    bones.points = [points[joint] for i in found for joint in BONES[i]]
    bones.colors = [bone_colors[i] for i in found for _ in range(2)]


def keypoints_message(poses: Poses, joints_m: Float | None, header: Header) -> PointCloud2:
    """
    Make a point of each joint that was found, person after person; nobody gives no points.

    Fields: x, y, z in metres in the optical frame, NaN where unsure; u, v in pixels; score 0..1;
    joint, the number in `skeleton.JOINTS`, or in `skeleton.WHOLE_BODY` (which begins with the
    same 17); person, the number in this picture.

    :param joints_m: (P, 17, 3) or (P, 133, 3), or None where metres are unknown.
    """
    people = [person.joints for person in poses.people]
    joints = np.stack(people) if people else np.empty((0, len(JOINTS), 3), np.float32)
    person, joint = np.nonzero(np.isfinite(joints[..., 0]))
    points = np.empty(len(person), POINT)
    places = np.full(joints.shape, np.nan) if joints_m is None else joints_m
    for i, name in enumerate(('x', 'y', 'z')):
        points[name] = places[person, joint, i]
    for i, name in enumerate(('u', 'v', 'score')):
        points[name] = joints[person, joint, i]
    points['joint'], points['person'] = joint, person
    return pack_points(points, header)
