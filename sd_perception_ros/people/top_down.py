"""Top-down poses: boxes around people, one batch of crops, joints back on their pictures."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
import logging
from typing import Any, NamedTuple

import numpy as np

from sd_perception_ros.people.boxes import Box, boxes_of_mask, boxes_of_poses, surest
from sd_perception_ros.people.crops import ASPECT, crop, Region, region_of, to_crop, to_picture
from sd_perception_ros.people.options import (
    AUTO,
    DETECTIONS,
    HUMAN_POSE,
    SEGMENTATION,
    TopDownOptions,
)
from sd_perception_ros.skeleton import JOINTS
from sd_perception_ros.types import Float, Grid, Person, Poses, Prediction, UInt8

LOGGER = logging.getLogger(__name__)
PERSON_CLASS = 'person'
# Two views of one person: the mean distance of their joints, as a share of the crop's height.
_SAME_PERSON = 0.15
# Crops -> raw output of human_pose for each, and where its cells lie on the crop.
ReadCrops = Callable[[Sequence[UInt8]], list[tuple[Any, Grid]]]
# Height and width of a picture -> pixels that the network reads for it.
NetworkPixels = Callable[[int, int], int]


def _as_it_is(height: int, width: int) -> int:
    return height * width


class _Crop(NamedTuple):
    """
    A person to look at.

    :ivar picture: index of the picture.
    """

    picture: int
    box: Box
    region: Region


class TopDown:
    """
    Reads the joints of each person in a crop.

    :param options: source of the boxes, and limits.
    :param task: `human_pose` of the network: one for crops of a person, or one for pictures,
        which looks a second time.
    :param read: runs the network on crops.
    :param picture_tasks: tasks of the models that see the whole picture, by name.
    :param crop_height_px: height of the crops, unless the options give another for a network that
        reads crops.
    :param network_px: tells what a second look costs beside the picture itself; without it,
        pictures are read as they are.
    :ivar source: of the boxes; one of the choices of `TopDownOptions.boxes` except auto.
    :ivar needs: tasks of the whole picture that must have run.
    :raises ValueError: boxes from a task that no model has.
    """

    def __init__(
        self,
        options: TopDownOptions,
        task: Any,
        read: ReadCrops,
        picture_tasks: Mapping[str, Any],
        crop_height_px: int,
        network_px: NetworkPixels = _as_it_is,
    ) -> None:
        self._options, self._task, self._read = options, task, read
        self._network_px = network_px
        self._said_off = False
        self.source = source_of_boxes(options.boxes, picture_tasks)
        names = getattr(picture_tasks.get(SEGMENTATION), 'class_names', ())
        self._person_ids = [i for i, name in enumerate(names) if name == PERSON_CLASS]
        if self.source == SEGMENTATION and not self._person_ids:
            raise ValueError(
                f"top_down.boxes: segmentation needs a class '{PERSON_CLASS}', the checkpoint has "
                f'{", ".join(names) or "none"}; choose another source'
            )
        # People of the whole picture split connected pixels, and are the first of two looks.
        uses_poses = self.source == SEGMENTATION or not task.reads_crops
        needs = [self.source] if self.source != DETECTIONS else []
        if uses_poses and HUMAN_POSE in picture_tasks:
            needs.append(HUMAN_POSE)
        self.needs = tuple(dict.fromkeys(needs))
        own_px = options.crop_height_px if task.reads_crops else 0
        self.height = own_px or crop_height_px
        self.width = round(self.height * ASPECT)

    def most_crops(self, height: int, width: int) -> int:
        """Return how many people of a picture of (height, width) may get a crop."""
        most = self._options.max_people
        if self._task.reads_crops:
            return most
        passes = 2 if self._options.flip_test else 1
        crop_px = passes * self._network_px(self.height, self.width)
        picture_px, most_cost = self._network_px(height, width), self._options.second_look_max_cost
        count = int(most_cost * picture_px / crop_px + 1e-6)
        if not count and not self._said_off:
            self._said_off = True
            LOGGER.warning(
                'no second look at people in pictures of %d x %d px: one costs %.2f times as much '
                'as the picture, and second_look_max_cost is %g',
                width,
                height,
                crop_px / picture_px,
                most_cost,
            )
        return min(most, count)

    def poses(
        self,
        pictures: Sequence[UInt8],
        predictions: Sequence[Mapping[str, Prediction]],
        boxes: Sequence[Sequence[Box]] | None = None,
    ) -> list[Poses]:
        """
        Return the people of each picture, in pixels of the picture, the surest first.

        :param pictures: (H, W, 3) uint8 RGB.
        :param predictions: of the tasks `needs`, for each picture.
        :param boxes: around the people of each picture; None: made from the predictions.
        :raises ValueError: the source of the boxes is detections, and none are given.
        """
        if boxes is None:
            boxes = [self._boxes(of_picture) for of_picture in predictions]
        crops = [
            _Crop(index, box, region_of(box))
            for index, of_picture in enumerate(boxes)
            for box in surest(of_picture, self.most_crops(*pictures[index].shape[:2]))
        ]
        people: list[list[Person]] = [[] for _ in pictures]
        # Second look: people without a crop stay as they are.
        first_looks: list[dict[int, Person]] = [{} for _ in pictures]
        if not self._task.reads_crops:
            first_looks = [_numbered(of_picture) for of_picture in predictions]
        found = self._people_in([pictures[c.picture] for c in crops], [c.region for c in crops])
        for one, in_crop in zip(crops, found, strict=True):
            first = first_looks[one.picture].pop(one.box.person, None)
            person = self._merged(one, in_crop, first, *pictures[one.picture].shape[:2])
            if person is not None:
                people[one.picture].append(person)
        for some, left in zip(people, first_looks, strict=True):
            some += left.values()
            some.sort(key=lambda person: -person.score)
        joint_count = self._task.channels if self._task.reads_crops else len(JOINTS)
        return [
            Poses(tuple(some), rgb.shape[0], rgb.shape[1], joint_count)
            for some, rgb in zip(people, pictures, strict=True)
        ]

    def _boxes(self, predictions: Mapping[str, Any]) -> list[Box]:
        if self.source == DETECTIONS:
            raise ValueError(
                'expected boxes around the people of each picture, got none; give boxes, or load '
                'a checkpoint with human_pose or segmentation of whole pictures beside the one '
                'that reads crops'
            )
        if self.source == HUMAN_POSE:
            return boxes_of_poses(predictions[HUMAN_POSE])
        mask = np.isin(predictions[SEGMENTATION].labels, self._person_ids)
        return boxes_of_mask(mask, predictions.get(HUMAN_POSE))

    def _people_in(self, pictures: Sequence[UInt8], regions: Sequence[Region]) -> list[Poses]:
        """Run all crops as one batch, with their mirror images where the options say so."""
        crops = [
            crop(rgb, region, self.width, self.height)
            for rgb, region in zip(pictures, regions, strict=True)
        ]
        if not crops:
            return []
        if not self._options.flip_test:
            return [self._task.decode(raw, grid) for raw, grid in self._read(crops)]
        mirrored = [np.ascontiguousarray(one[:, ::-1]) for one in crops]
        outputs = self._read([*crops, *mirrored])
        straight, back = outputs[: len(crops)], outputs[len(crops) :]
        return [
            self._task.decode((raw + self._task.unmirrored(other)) / 2, grid)
            for (raw, grid), (other, _) in zip(straight, back, strict=True)
        ]

    def _merged(
        self, one: _Crop, in_crop: Poses, first: Person | None, height: int, width: int
    ) -> Person | None:
        """
        Return the person of a crop, in pixels of the picture of (height, width).

        :param first: the same person as found in the whole picture, for a second look.
        """
        if self._task.reads_crops:
            person = in_crop.people[0] if in_crop.people else None
        else:
            person = self._same_person(in_crop.people, one.region, first)
        if person is None:
            return first
        joints = to_picture(person.joints, one.region, self.width, self.height)
        with np.errstate(invalid='ignore'):
            inside = (joints[:, :2] >= -0.5).all(1)
            inside &= (joints[:, 0] <= width - 0.5) & (joints[:, 1] <= height - 0.5)
        joints[~inside] = np.nan, np.nan, 0
        visible = person.visible & inside
        score = one.box.score * person.score
        if first is not None:  # a joint that only the whole picture shows stays
            joints = np.where(visible[:, None], joints, first.joints)
            visible, score = visible | first.visible, first.score
        if not np.isfinite(joints[:, 0]).any():
            return None
        return Person(joints, visible, score)

    def _same_person(
        self, people: Sequence[Person], region: Region, first: Person | None
    ) -> Person | None:
        """Return the person of a crop that the whole picture showed; None: not among them."""
        if first is None or not people:
            return people[0] if people else None
        known = to_crop(first.joints, region, self.width, self.height)
        distances = [_distance(person.joints, known) for person in people]
        nearest = int(np.argmin(distances))
        return people[nearest] if distances[nearest] < _SAME_PERSON * self.height else None


def source_of_boxes(boxes: str, picture_tasks: Collection[str]) -> str:
    """
    Return where boxes come from: one of the choices of `TopDownOptions.boxes` except auto.

    :param picture_tasks: tasks of the models that see the whole picture.
    :raises ValueError: no model has the chosen task.
    """
    if boxes == AUTO:
        return next((t for t in (HUMAN_POSE, SEGMENTATION) if t in picture_tasks), DETECTIONS)
    if boxes != DETECTIONS and boxes not in picture_tasks:
        raise ValueError(
            f'top_down.boxes: {boxes} needs a checkpoint with that task for whole pictures, got '
            f'one with {", ".join(picture_tasks) or "none"}; choose detections, or name a '
            'checkpoint with that task in checkpoint and the one for crops in '
            'human_pose.checkpoint'
        )
    return boxes


def tasks_for_boxes(boxes: str, tasks: Collection[str]) -> list[str]:
    """Return those tasks of a checkpoint that boxes are made from."""
    source = source_of_boxes(boxes, tasks)
    needed = (source, HUMAN_POSE) if source == SEGMENTATION else (source,)
    return [task for task in needed if task in tasks]


def _numbered(predictions: Mapping[str, Any]) -> dict[int, Person]:
    """Return the people of the whole picture by number."""
    poses = predictions.get(HUMAN_POSE)
    return {} if poses is None else dict(enumerate(poses.people))


def _distance(joints: Float, others: Float) -> float:
    """Return the mean distance of the joints that both have; infinite without any."""
    apart = np.linalg.norm(joints[:, :2] - others[:, :2], axis=1)
    known = apart[np.isfinite(apart)]
    return float(known.mean()) if len(known) else np.inf
