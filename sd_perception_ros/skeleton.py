"""Joints of COCO (17) and COCO-WholeBody (133): names, bones, symmetry, annotation noise."""

from __future__ import annotations

import numpy as np

JOINTS = (
    'nose',
    'left_eye',
    'right_eye',
    'left_ear',
    'right_ear',
    'left_shoulder',
    'right_shoulder',
    'left_elbow',
    'right_elbow',
    'left_wrist',
    'right_wrist',
    'left_hip',
    'right_hip',
    'left_knee',
    'right_knee',
    'left_ankle',
    'right_ankle',
)
INDEX = {name: index for index, name in enumerate(JOINTS)}
OUTSIDE = -1  # visibility flag of a joint outside the image; the other flags are those of COCO

# Skeleton of COCO, as pairs of joint indices.
BONES = tuple(
    (INDEX[a], INDEX[b])
    for a, b in (
        ('left_ankle', 'left_knee'),
        ('left_knee', 'left_hip'),
        ('right_ankle', 'right_knee'),
        ('right_knee', 'right_hip'),
        ('left_hip', 'right_hip'),
        ('left_shoulder', 'left_hip'),
        ('right_shoulder', 'right_hip'),
        ('left_shoulder', 'right_shoulder'),
        ('left_shoulder', 'left_elbow'),
        ('right_shoulder', 'right_elbow'),
        ('left_elbow', 'left_wrist'),
        ('right_elbow', 'right_wrist'),
        ('left_eye', 'right_eye'),
        ('nose', 'left_eye'),
        ('nose', 'right_eye'),
        ('left_eye', 'left_ear'),
        ('right_eye', 'right_ear'),
        ('left_ear', 'left_shoulder'),
        ('right_ear', 'right_shoulder'),
    )
)


def _opposite(name: str) -> str:
    """Return the name of the same joint on the other side of the body."""
    start, _, rest = name.partition('_')
    other = {'left': 'right', 'right': 'left'}.get(start)
    return f'{other}_{rest}' if other else name


# Index of each joint's counterpart in the mirrored image.
MIRRORED = tuple(INDEX[_opposite(name)] for name in JOINTS)

# Standard deviation of human annotations, relative to the square root of a person's area: the
# constants of object keypoint similarity (COCO keypoint evaluation, pycocotools).
SIGMAS = np.array(
    [26, 25, 25, 35, 35, 79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89], np.float32
) / np.float32(1000)


# COCO-WholeBody: the 17 joints of the body, then feet, 68 points of the face, and both hands.
_FINGERS = ('thumb', 'forefinger', 'middle_finger', 'ring_finger', 'pinky_finger')
_FEET = ('big_toe', 'small_toe', 'heel')
WHOLE_BODY = (
    *JOINTS,
    *(f'{name}_{part}' for name in ('left', 'right') for part in _FEET),
    *(f'face_{point}' for point in range(68)),
    *(
        f'{name}_{part}'
        for name in ('left', 'right')
        for part in ('hand_root', *(f'{finger}{n}' for finger in _FINGERS for n in range(1, 5)))
    ),
)
# Points of the face that lie opposite each other (the 68 points of iBUG 300-W); all others lie on
# the line of symmetry: jaw, brows, nose, eyes, outer and inner lips.
_FACE_PAIRS = (
    *((point, 16 - point) for point in range(8)),
    *((point, 43 - point) for point in range(17, 22)),
    *((31, 35), (32, 34), (36, 45), (37, 44), (38, 43), (39, 42), (40, 47), (41, 46)),
    *((48, 54), (49, 53), (50, 52), (55, 59), (56, 58), (60, 64), (61, 63), (65, 67)),
)
_FACE_MIRRORED = {f'face_{a}': f'face_{b}' for pair in _FACE_PAIRS for a, b in (pair, pair[::-1])}
_WHOLE_INDEX = {name: index for index, name in enumerate(WHOLE_BODY)}
WHOLE_BODY_MIRRORED = tuple(
    _WHOLE_INDEX[_FACE_MIRRORED.get(name, _opposite(name))] for name in WHOLE_BODY
)


def side(joint: int) -> str:
    """Return 'left', 'right' or 'middle' of a joint of COCO or COCO-WholeBody."""
    start = WHOLE_BODY[joint].partition('_')[0]
    return start if start in ('left', 'right') else 'middle'
