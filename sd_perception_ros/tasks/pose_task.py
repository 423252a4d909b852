"""Metrics and drawing of the tasks that predict people."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sd_perception_ros.drawing import draw_people
from sd_perception_ros.metrics.coco import measure_people, people_summary
from sd_perception_ros.metrics.keypoints import keypoint_matches, KeypointMatch
from sd_perception_ros.skeleton import JOINTS
from sd_perception_ros.tasks.task import Task
from sd_perception_ros.types import Float, Poses, Sample

Matches: TypeAlias = tuple[Float, Float]


@dataclass(frozen=True)
class PoseTask(Task):
    """The joints of people."""

    name: ClassVar[str] = 'human_pose'
    truth: ClassVar[str] = 'joints'
    headline: ClassVar[str] = 'pck_0.2'
    higher_is_better: ClassVar[bool] = True
    dense: ClassVar[bool] = False

    @abstractmethod
    def unmirrored(self, raw: Tensor) -> Tensor:
        """Convert the output for a mirrored image, (..., h, w), to that for the image."""

    def measure(self, prediction: Poses, sample: Sample) -> Matches:
        """Match predicted with true people by the joints of COCO, for PCK and precision."""
        joints = sample['joints'][0].numpy()
        joints = np.where(joints[..., 2:] > 0, joints, np.float32(0))
        bodies = sample['bodies'][0].numpy() if 'bodies' in sample else None
        count = len(JOINTS)
        people = tuple(
            replace(person, joints=person.joints[:count], visible=person.visible[:count])
            for person in prediction.people
        )
        return keypoint_matches(people, joints, bodies), measure_people(people, joints, bodies)

    def summarize(self, measured: Sequence[Matches]) -> dict[str, float]:
        """Return the measures of all people of all images."""
        matches, coco = zip(*measured, strict=True)
        return KeypointMatch.summarize(np.concatenate(matches)) | people_summary(coco)

    def colorize(self, prediction: Poses) -> NDArray[np.uint8]:
        """Draw the skeletons on black."""
        black = np.zeros((prediction.height, prediction.width, 3), np.uint8)
        return draw_people(black, prediction)
