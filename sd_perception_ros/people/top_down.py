"""Top-down human pose: boxes around people, one batch of crops, joints in the images."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
import logging
from typing import Any, NamedTuple

import numpy as np

from sd_perception_ros.people.boxes import Box, boxes_of_mask, boxes_of_poses, highest_scores
from sd_perception_ros.people.crops import ASPECT, crop, Region, region_of, to_crop, to_image
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
# Mean distance of the joints of one person in image and crop, as a fraction of the crop's height.
_SAME_PERSON = 0.15
# Crops -> raw output of human_pose for each, and its grid on the crop.
ReadCrops = Callable[[Sequence[UInt8]], list[tuple[Any, Grid]]]
# (height, width) of an image -> pixels that the network reads for it.
NetworkPixels = Callable[[int, int], int]


def _all_pixels(height: int, width: int) -> int:
    return height * width


class _Crop(NamedTuple):
    """
    The region of a person in an image.

    :ivar image: index of the image.
    """

    image: int
    box: Box
    region: Region


class TopDown:
    """
    Predict the joints of each person from a crop of the image.

    :param options: source of the boxes, and limits.
    :param task: `human_pose` of the network: one for crops of a person, or one for whole
        images, which runs a second time on crops (second look).
    :param read: runs the network on crops.
    :param image_tasks: tasks of the models for whole images, by name.
    :param crop_height_px: height of the crops; `options.crop_height_px` replaces it if the task
        is for crops.
    :param network_px: pixels that the network reads for an image of (height, width), for the cost
        of a second look; default: the pixels of the image.
    :ivar source: source of the boxes; one of the choices of `TopDownOptions.boxes` except auto.
    :ivar needs: tasks whose predictions for the whole image `poses` needs.
    :raises ValueError: boxes from a task that no model has.
    """

    def __init__(
        self,
        options: TopDownOptions,
        task: Any,
        read: ReadCrops,
        image_tasks: Mapping[str, Any],
        crop_height_px: int,
        network_px: NetworkPixels = _all_pixels,
    ) -> None:
        self._options, self._task, self._read = options, task, read
        self._network_px = network_px
        self._warned = False
        self.source = source_of_boxes(options.boxes, image_tasks)
        names = getattr(image_tasks.get(SEGMENTATION), 'class_names', ())
        self._person_ids = [i for i, name in enumerate(names) if name == PERSON_CLASS]
        if self.source == SEGMENTATION and not self._person_ids:
            raise ValueError(
                f"top_down.boxes: segmentation needs a class '{PERSON_CLASS}', the checkpoint has "
                f'{", ".join(names) or "none"}; choose another source'
            )
        # People of the whole image split connected pixels, and are the result of the first look.
        uses_poses = self.source == SEGMENTATION or not task.reads_crops
        needs = [self.source] if self.source != DETECTIONS else []
        if uses_poses and HUMAN_POSE in image_tasks:
            needs.append(HUMAN_POSE)
        self.needs = tuple(dict.fromkeys(needs))
        own_px = options.crop_height_px if task.reads_crops else 0
        self.height = own_px or crop_height_px
        self.width = round(self.height * ASPECT)

    def most_crops(self, height: int, width: int) -> int:
        """Return the maximum number of crops of an image of (height, width)."""
        most = self._options.max_people
        if self._task.reads_crops:
            return most
        passes = 2 if self._options.flip_test else 1
        crop_px = passes * self._network_px(self.height, self.width)
        image_px, most_cost = self._network_px(height, width), self._options.second_look_max_cost
        count = int(most_cost * image_px / crop_px + 1e-6)
        if not count and not self._warned:
            self._warned = True
            LOGGER.warning(
                'no second look at people in images of %d x %d px: one costs %.2f times as much '
                'as the image, and second_look_max_cost is %g',
                width,
                height,
                crop_px / image_px,
                most_cost,
            )
        return min(most, count)

    def poses(
        self,
        images: Sequence[UInt8],
        predictions: Sequence[Mapping[str, Prediction]],
        boxes: Sequence[Sequence[Box]] | None = None,
    ) -> list[Poses]:
        """
        Return the people of each image, in pixels of the image, highest score first.

        :param images: (H, W, 3) uint8 RGB.
        :param predictions: predictions of the tasks `needs`, for each image.
        :param boxes: boxes around the people of each image; None: made from the predictions.
        :raises ValueError: the source of the boxes is detections, and none are given.
        """
        if boxes is None:
            boxes = [self._boxes(results) for results in predictions]
        crops = [
            _Crop(index, box, region_of(box))
            for index, image_boxes in enumerate(boxes)
            for box in highest_scores(image_boxes, self.most_crops(*images[index].shape[:2]))
        ]
        people: list[list[Person]] = [[] for _ in images]
        # Second look: people without a crop stay as they are.
        first_looks: list[dict[int, Person]] = [{} for _ in images]
        if not self._task.reads_crops:
            first_looks = [_people_by_index(results) for results in predictions]
        crop_poses = self._people_in([images[c.image] for c in crops], [c.region for c in crops])
        for cropped, in_crop in zip(crops, crop_poses, strict=True):
            first = first_looks[cropped.image].pop(cropped.box.person, None)
            person = self._merged(cropped, in_crop, first, *images[cropped.image].shape[:2])
            if person is not None:
                people[cropped.image].append(person)
        for image_people, remaining in zip(people, first_looks, strict=True):
            image_people += remaining.values()
            image_people.sort(key=lambda person: -person.score)
        joint_count = self._task.channels if self._task.reads_crops else len(JOINTS)
        return [
            Poses(tuple(image_people), rgb.shape[0], rgb.shape[1], joint_count)
            for image_people, rgb in zip(people, images, strict=True)
        ]

    def _boxes(self, predictions: Mapping[str, Any]) -> list[Box]:
        if self.source == DETECTIONS:
            raise ValueError(
                'expected boxes around the people of each image, got none; give boxes, or load '
                'a checkpoint with human_pose or segmentation for whole images beside the one '
                'for crops'
            )
        if self.source == HUMAN_POSE:
            return boxes_of_poses(predictions[HUMAN_POSE])
        mask = np.isin(predictions[SEGMENTATION].labels, self._person_ids)
        return boxes_of_mask(mask, predictions.get(HUMAN_POSE))

    def _people_in(self, images: Sequence[UInt8], regions: Sequence[Region]) -> list[Poses]:
        """Run all crops as one batch, with their mirror images if `flip_test` is set."""
        crops = [
            crop(rgb, region, self.width, self.height)
            for rgb, region in zip(images, regions, strict=True)
        ]
        if not crops:
            return []
        if not self._options.flip_test:
            return [self._task.decode(raw, grid) for raw, grid in self._read(crops)]
        mirrored = [np.ascontiguousarray(cropped[:, ::-1]) for cropped in crops]
        outputs = self._read([*crops, *mirrored])
        plain, flipped = outputs[: len(crops)], outputs[len(crops) :]
        return [
            self._task.decode((raw + self._task.unmirrored(other)) / 2, grid)
            for (raw, grid), (other, _) in zip(plain, flipped, strict=True)
        ]

    def _merged(
        self, cropped: _Crop, in_crop: Poses, first: Person | None, height: int, width: int
    ) -> Person | None:
        """
        Return the person of a crop, in pixels of the (height, width) image.

        :param first: the same person in the whole image, for a second look.
        """
        if self._task.reads_crops:
            person = in_crop.people[0] if in_crop.people else None
        else:
            person = self._same_person(in_crop.people, cropped.region, first)
        if person is None:
            return first
        joints = to_image(person.joints, cropped.region, self.width, self.height)
        with np.errstate(invalid='ignore'):
            inside = (joints[:, :2] >= -0.5).all(1)
            inside &= (joints[:, 0] <= width - 0.5) & (joints[:, 1] <= height - 0.5)
        joints[~inside] = np.nan, np.nan, 0
        visible = person.visible & inside
        score = cropped.box.score * person.score
        if first is not None:  # keep joints that are missing in the crop
            joints = np.where(visible[:, None], joints, first.joints)
            visible, score = visible | first.visible, first.score
        if not np.isfinite(joints[:, 0]).any():
            return None
        return Person(joints, visible, score)

    def _same_person(
        self, people: Sequence[Person], region: Region, first: Person | None
    ) -> Person | None:
        """Return the person of a crop that is nearest to `first`; None if none is near enough."""
        if first is None or not people:
            return people[0] if people else None
        known = to_crop(first.joints, region, self.width, self.height)
        distances = [_distance(person.joints, known) for person in people]
        nearest = int(np.argmin(distances))
        return people[nearest] if distances[nearest] < _SAME_PERSON * self.height else None


def source_of_boxes(boxes: str, image_tasks: Collection[str]) -> str:
    """
    Return the source of the boxes: one of the choices of `TopDownOptions.boxes` except auto.

    :param image_tasks: tasks of the models for whole images.
    :raises ValueError: no model has the chosen task.
    """
    if boxes == AUTO:
        return next((t for t in (HUMAN_POSE, SEGMENTATION) if t in image_tasks), DETECTIONS)
    if boxes != DETECTIONS and boxes not in image_tasks:
        raise ValueError(
            f'top_down.boxes: {boxes} needs a checkpoint with that task for whole images, got '
            f'one with {", ".join(image_tasks) or "none"}; choose detections, or name a '
            'checkpoint with that task in checkpoint and the one for crops in '
            'human_pose.checkpoint'
        )
    return boxes


def tasks_for_boxes(boxes: str, tasks: Collection[str]) -> list[str]:
    """Return the tasks of a checkpoint from which boxes are made."""
    source = source_of_boxes(boxes, tasks)
    needed = (source, HUMAN_POSE) if source == SEGMENTATION else (source,)
    return [task for task in needed if task in tasks]


def _people_by_index(predictions: Mapping[str, Any]) -> dict[int, Person]:
    """Return the people that human_pose found in the whole image, by index."""
    poses = predictions.get(HUMAN_POSE)
    return {} if poses is None else dict(enumerate(poses.people))


def _distance(joints: Float, others: Float) -> float:
    """Return the mean distance of the joints that are known in both; infinite without any."""
    apart = np.linalg.norm(joints[:, :2] - others[:, :2], axis=1)
    known = apart[np.isfinite(apart)]
    return float(known.mean()) if len(known) else np.inf
