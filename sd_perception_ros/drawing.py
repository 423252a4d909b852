"""Pictures for people: skeletons over a picture, a cut-out over a checkerboard."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import cv2
import numpy as np
from numpy.typing import NDArray

from sd_perception_ros.skeleton import BONES, JOINTS, side, WHOLE_BODY
from sd_perception_ros.types import Float, Person, Poses, UInt8

# Red, green, blue of a body's sides, as the person has them; told apart by the colour-blind too.
SIDE_COLORS = {'left': (255, 140, 0), 'right': (0, 170, 255), 'middle': (240, 240, 240)}
_JOINTS_OF = {name: [j for j in range(len(JOINTS)) if side(j) == name] for name in SIDE_COLORS}
# Points of feet, face and hands of the whole body.
_POINTS_OF = {
    name: [j for j in range(len(JOINTS), len(WHOLE_BODY)) if side(j) == name]
    for name in SIDE_COLORS
}
# OpenCV's fixed-point coordinates lose their way far outside of a picture.
_FAR_PX = 1 << 14


def bone_side(bone: tuple[int, int]) -> str:
    """Return 'left' or 'right' of a bone that lies on one side, else 'middle'."""
    sides = {side(joint) for joint in bone} - {'middle'}
    return sides.pop() if len(sides) == 1 else 'middle'


_BONES_OF = {
    name: np.array([bone for bone in BONES if bone_side(bone) == name]) for name in SIDE_COLORS
}


def draw_people(rgb: UInt8, poses: Poses) -> UInt8:
    """
    Draw skeletons over a picture; a joint that was not found is left out with its bones.

    :param rgb: (H, W, 3) uint8, left as it is.
    :param poses: people in pixels of this picture.
    :returns: a new picture of the same size.
    """
    picture = np.array(rgb, np.uint8, order='C')
    if not poses.people:
        return picture
    # Joints at 1/16 pixel: (P, 17, 2), or (P, 133, 2) of the whole body.
    joints = np.stack([person.joints[:, :2] for person in poses.people])
    found: NDArray[np.bool_] = np.all(np.abs(joints) < _FAR_PX, axis=-1)  # NaN is not
    points = np.round(np.where(found[..., None], joints, 0) * 16).astype(np.int32)
    thickness_px = max(2, round(min(picture.shape[:2]) / 240))  # one is half transparent
    for name, bones in _BONES_OF.items():
        both = found[:, bones].all(-1)
        _lines(picture, points[:, bones][both], SIDE_COLORS[name], thickness_px)
    if joints.shape[1] > len(JOINTS):
        _dots(picture, points, found, _POINTS_OF, thickness_px)
    _dots(picture, points, found, _JOINTS_OF, 3 * thickness_px)
    return picture


def _dots(
    picture: UInt8,
    points: NDArray[np.int32],
    found: NDArray[np.bool_],
    joints_of: Mapping[str, list[int]],
    size_px: int,
) -> None:
    """Draw the joints of each side as dots."""
    for name, of_side in joints_of.items():
        dots = points[:, of_side][found[:, of_side]]
        # A line without length is a dot: one call for all of them, where circles take hundreds.
        _lines(picture, np.stack([dots, dots], 1), SIDE_COLORS[name], size_px)


def true_poses(joints: Float, height: int, width: int) -> Poses:
    """Make people of (P, 17, 3) true joints, as `Sample` has them, to draw them."""
    people = []
    for person in joints[(joints[..., 2] > 1).any(1)]:
        labelled = person[:, 2:] > 0
        known = np.where(labelled, person, np.nan).astype(np.float32)
        known[:, 2] = labelled[:, 0]
        people.append(Person(known, person[:, 2] > 1, 1.0))
    return Poses(tuple(people), height, width)


def over_checkerboard(rgb: UInt8, alpha: Float, square_px: int = 16) -> UInt8:
    """
    Put the foreground of a picture over a grey checkerboard.

    :param rgb: (H, W, 3) uint8.
    :param alpha: (H, W) float32, 0..1, share of each pixel that is foreground.
    :returns: (H, W, 3) uint8.
    """
    rows, columns = (np.arange(size) // square_px % 2 for size in alpha.shape)
    levels = np.where(rows[:, None] == columns, np.uint8(102), np.uint8(153))
    # In 8 bits: a float picture of this size costs ten times as much.
    weight = cv2.merge([cv2.convertScaleAbs(alpha, alpha=255)] * 3)
    rest = cv2.bitwise_not(weight)
    front = cv2.multiply(np.ascontiguousarray(rgb), weight, scale=1 / 255)
    back = cv2.multiply(cv2.merge([levels] * 3), rest, scale=1 / 255)
    return np.asarray(cv2.add(front, back), np.uint8)


def _lines(
    picture: UInt8, ends: NDArray[np.int32], color: Iterable[int], thickness_px: int
) -> None:
    """Draw lines into a picture; ends (N, 2, 2) are 1/16 pixels."""
    if len(ends):
        cv2.polylines(
            picture, list(ends[:, :, None]), False, tuple(color), thickness_px, cv2.LINE_AA, 4
        )
