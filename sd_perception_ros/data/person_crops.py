"""Training crops of one person, as COCO's top-down protocol makes them (mmpose, ViTPose)."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray
import torch

from sd_perception_ros.data.samples import to_tensor
from sd_perception_ros.people.boxes import box_around
from sd_perception_ros.people.crops import crop, Region, region_of, warp_of
from sd_perception_ros.skeleton import OUTSIDE
from sd_perception_ros.types import Float, Sample

LEAST_PX = 16  # people whose annotated joints span less are left out
# A region is scaled by 0.5 to 1.5. With these probabilities it is shifted by up to 0.16 of its
# size, rotated, or reduced to the upper or lower body.
SHIFT, SHIFT_SHARE = 0.16, 0.3
SCALE = 0.5
TURN_SHARE = 0.6
HALF_SHARE, LEAST_HALF = 0.3, 8
HEAD_AND_ARMS = 11  # the first joints of COCO; hips and legs follow


def people_to_crop(sample: Sample) -> list[int]:
    """Return the indices of people whose joints in the image span 16 px, in a batch of one."""
    joints = sample['joints'][0].numpy()
    found = []
    for number, person in enumerate(joints):
        points = _marked(person)
        if len(points) > 1 and float(np.ptp(points, axis=0).max()) >= LEAST_PX:
            found.append(number)
    return found


def person_region(joints: Float) -> Region:
    """
    Return the region of a person, as in a second look.

    :param joints: (17, 3) u, v and flag, as in `Sample`; at least one is annotated.
    """
    return region_of(box_around(_marked(joints)))


def random_region(
    joints: Float, rng: np.random.Generator, most_turn_deg: float
) -> tuple[Region, float]:
    """
    Draw a random region around a person, and the rotation of its crop in degrees.

    Shift, scale and angle have normal distributions that are truncated at one standard deviation,
    their limit.

    :param joints: as for `person_region`.
    :param most_turn_deg: maximum rotation, clockwise and anticlockwise.
    """
    region = person_region(_half(joints, rng) if rng.random() < HALF_SHARE else joints)
    shift = np.zeros(2)
    if rng.random() < SHIFT_SHARE:
        shift = SHIFT * np.array([_limited(rng), _limited(rng)])
    scale = 1 + SCALE * _limited(rng)
    angle = most_turn_deg * _limited(rng) if rng.random() < TURN_SHARE else 0.0
    width, height = scale * region.width, scale * region.height
    return (
        Region(
            region.left + (region.width - width) / 2 + float(shift[0]) * width,
            region.top + (region.height - height) / 2 + float(shift[1]) * height,
            width,
            height,
        ),
        angle,
    )


def person_crop(
    sample: Sample,
    number: int,
    region: Region,
    size: tuple[int, int],
    angle_deg: float = 0.0,
) -> Sample:
    """
    Crop the image, joints and matte of a sample.

    :param sample: a batch of one.
    :param number: index of the person of the crop, who becomes the first one in `joints`.
    :param size: (height, width) of the crop.
    :param angle_deg: clockwise rotation of the image around the centre of the region.
    :returns: a batch of one: `image`, black outside of the original image; `joints`; and, if the
        sample has it, `matte`, 0 outside of the original image.
    """
    height, width = size
    rgb = ((sample['image'][0] + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    shown = crop(rgb, region, width, height, angle_deg)
    warp = warp_of(region, width, height, angle_deg)
    people = sample['joints'][0].numpy()
    order = [number, *(other for other in range(len(people)) if other != number)]
    joints = _moved(people[order], warp, width, height)
    cut = {'image': to_tensor('image', shown), 'joints': torch.from_numpy(joints)[None]}
    if 'matte' in sample:
        matte = sample['matte'][0, 0].numpy()
        # Nearest: a mean of known and unknown pixels would be unknown.
        moved = cv2.warpAffine(matte, warp, (width, height), flags=cv2.INTER_NEAREST)
        cut['matte'] = to_tensor('matte', np.asarray(moved))
    return cut


def _marked(joints: Float) -> Float:
    """Return (N, 2) u and v of the joints that are annotated in the image."""
    points: Float = joints[joints[:, 2] > 0, :2]
    return points


def _half(joints: Float, rng: np.random.Generator) -> Float:
    """Return a person without legs, or without head and arms, if at least 8 joints remain."""
    halves = []
    for hidden in (slice(HEAD_AND_ARMS, None), slice(0, HEAD_AND_ARMS)):
        half = joints.copy()
        half[hidden] = 0
        if len(_marked(half)) >= LEAST_HALF:
            halves.append(half)
    return halves[int(rng.integers(len(halves)))] if halves else joints


def _limited(rng: np.random.Generator) -> float:
    """Draw a standard normal number between -1 and 1."""
    while not math.fabs(number := float(rng.normal())) <= 1:
        pass
    return number


def _moved(people: Float, warp: NDArray[np.float64], width: int, height: int) -> Float:
    """Transform (P, 17, 3) joints to a crop; those outside of it get the flag `OUTSIDE`."""
    moved = people.copy()
    known = people[..., 2] != 0
    moved[..., :2] = people[..., :2] @ warp[:, :2].T + warp[:, 2]
    size = np.array([width, height])
    inside = (np.abs(moved[..., :2] - (size - 1) / 2) <= size / 2).all(-1)
    moved[~inside, 2] = OUTSIDE
    moved[~known] = 0
    return moved.astype(np.float32)
