"""The 17 joints of COCO: names, bones, mirror images, and how exactly people mark each of them."""

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
OUTSIDE = -1  # flag of a joint that is known to be outside the picture; the others are COCO's

# COCO's own skeleton, as pairs of joint numbers.
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

# Which joint each one becomes when a picture is mirrored.
MIRRORED = tuple(
    INDEX[name.replace('left', 'r_ght').replace('right', 'left').replace('r_ght', 'right')]
    for name in JOINTS
)

# Standard deviation of human annotations, as a share of the square root of a person's area: the
# constants of object keypoint similarity (COCO keypoint evaluation, pycocotools).
SIGMAS = np.array(
    [26, 25, 25, 35, 35, 79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89], np.float32
) / np.float32(1000)


def side(joint: int) -> str:
    """Return 'left', 'right' or 'middle'."""
    return next((name for name in ('left', 'right') if JOINTS[joint].startswith(name)), 'middle')
