"""Visualization: skeletons on an image, and foreground over a checkerboard."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import cv2
import numpy as np
from numpy.typing import NDArray

from sd_perception_ros.skeleton import BONES, JOINTS, side, WHOLE_BODY
from sd_perception_ros.types import Float, Person, Poses, UInt8

# RGB of the person's left and right side; distinguishable with colour blindness.
SIDE_COLORS = {'left': (255, 140, 0), 'right': (0, 170, 255), 'middle': (240, 240, 240)}
_JOINTS_OF = {name: [j for j in range(len(JOINTS)) if side(j) == name] for name in SIDE_COLORS}
# Points of feet, face and hands of the whole body.
_POINTS_OF = {
    name: [j for j in range(len(JOINTS), len(WHOLE_BODY)) if side(j) == name]
    for name in SIDE_COLORS
}
# OpenCV's fixed-point coordinates overflow far outside an image.
_MAX_COORDINATE_PX = 1 << 14


def bone_side(bone: tuple[int, int]) -> str:
    """Return the side of a bone, 'left' or 'right'; 'middle' if it connects both sides."""
    sides = {side(joint) for joint in bone} - {'middle'}
    return sides.pop() if len(sides) == 1 else 'middle'


_BONES_OF = {
    name: np.array([bone for bone in BONES if bone_side(bone) == name]) for name in SIDE_COLORS
}


def draw_people(rgb: UInt8, poses: Poses) -> UInt8:
    """
    Draw skeletons on an image; joints that were not detected are left out with their bones.

    :param rgb: (H, W, 3) uint8, not modified.
    :param poses: people in pixels of this image.
    :returns: a new image of the same size.
    """
    image = np.array(rgb, np.uint8, order='C')
    if not poses.people:
        return image
    # (P, 17, 2), or (P, 133, 2) of the whole body.
    joints = np.stack([person.joints[:, :2] for person in poses.people])
    detected: NDArray[np.bool_] = np.all(np.abs(joints) < _MAX_COORDINATE_PX, axis=-1)  # not NaN
    points = np.round(np.where(detected[..., None], joints, 0) * 16).astype(np.int32)
    thickness_px = max(2, round(min(image.shape[:2]) / 240))  # 1 px would be half transparent
    for name, bones in _BONES_OF.items():
        both = detected[:, bones].all(-1)
        _lines(image, points[:, bones][both], SIDE_COLORS[name], thickness_px)
    if joints.shape[1] > len(JOINTS):
        _dots(image, points, detected, _POINTS_OF, thickness_px)
    _dots(image, points, detected, _JOINTS_OF, 3 * thickness_px)
    return image


def _dots(
    image: UInt8,
    points: NDArray[np.int32],
    detected: NDArray[np.bool_],
    joints_of: Mapping[str, list[int]],
    size_px: int,
) -> None:
    """Draw the joints of each side as dots."""
    for name, side_joints in joints_of.items():
        dots = points[:, side_joints][detected[:, side_joints]]
        # A dot is a line of length 0: one call draws all of them; circles need one call each.
        _lines(image, np.stack([dots, dots], 1), SIDE_COLORS[name], size_px)


def true_poses(joints: Float, height: int, width: int) -> Poses:
    """Convert the true joints of a `Sample`, (P, 17, 3), to people that can be drawn."""
    people = []
    for person in joints[(joints[..., 2] > 1).any(1)]:
        labelled = person[:, 2:] > 0
        person_joints = np.where(labelled, person, np.nan).astype(np.float32)
        person_joints[:, 2] = labelled[:, 0]
        people.append(Person(person_joints, person[:, 2] > 1, 1.0))
    return Poses(tuple(people), height, width)


def over_checkerboard(rgb: UInt8, alpha: Float, square_px: int = 16) -> UInt8:
    """
    Composite the foreground of an image over a grey checkerboard.

    :param rgb: (H, W, 3) uint8.
    :param alpha: (H, W) float32, 0..1, fraction of each pixel that is foreground.
    :returns: (H, W, 3) uint8.
    """
    rows, columns = (np.arange(size) // square_px % 2 for size in alpha.shape)
    levels = np.where(rows[:, None] == columns, np.uint8(102), np.uint8(153))
    # In 8 bits: ten times as fast as float32.
    weight = cv2.merge([cv2.convertScaleAbs(alpha, alpha=255)] * 3)
    rest = cv2.bitwise_not(weight)
    front = cv2.multiply(np.ascontiguousarray(rgb), weight, scale=1 / 255)
    back = cv2.multiply(cv2.merge([levels] * 3), rest, scale=1 / 255)
    return np.asarray(cv2.add(front, back), np.uint8)


def _lines(image: UInt8, ends: NDArray[np.int32], color: Iterable[int], thickness_px: int) -> None:
    """Draw lines into an image; ends, (N, 2, 2), are in 1/16 pixels."""
    if len(ends):
        cv2.polylines(
            image, list(ends[:, :, None]), False, tuple(color), thickness_px, cv2.LINE_AA, 4
        )
