"""Every task by its name: add a file here and a class to this table, and it is everywhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sd_perception_ros.config import build
from sd_perception_ros.tasks.depth import Depth
from sd_perception_ros.tasks.disparity import Disparity
from sd_perception_ros.tasks.foreground import Foreground
from sd_perception_ros.tasks.human_pose import HumanPose
from sd_perception_ros.tasks.matting import Matting
from sd_perception_ros.tasks.normals import Normals
from sd_perception_ros.tasks.segmentation import Segmentation
from sd_perception_ros.tasks.task import Task

TASKS: dict[str, type[Task]] = {
    task.name: task
    for task in (Depth, Disparity, Normals, Segmentation, Foreground, Matting, HumanPose)
}


# Names of the release before, to read its checkpoints and parameter files.
OLD_NAMES = {'pose': 'human_pose'}


def make_task(name: str, options: Mapping[str, Any] | None = None, where: str = '') -> Task:
    """
    Build a task by the name used in config files.

    :param options: the task's own options, as checkpoint.yaml gives them.
    :raises ValueError: unknown name or option.
    """
    if name not in TASKS:
        at = f'{where}: ' if where else ''
        raise ValueError(f"{at}unknown task '{name}'; choose one of: {', '.join(TASKS)}")
    return build(TASKS[name], options or {}, where)
