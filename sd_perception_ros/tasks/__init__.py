"""Tasks. To add one: add a file to this folder and a line to this table."""

from __future__ import annotations

from collections.abc import Mapping
import importlib
from typing import Any, TYPE_CHECKING

from sd_perception_ros.config import build

if TYPE_CHECKING:
    from sd_perception_ros.tasks.task import Task

# Name of the file: class. Files are imported when used, as the command line needs only the names,
# not torch.
TASKS = {
    'depth': 'Depth',
    'disparity': 'Disparity',
    'normals': 'Normals',
    'segmentation': 'Segmentation',
    'foreground': 'Foreground',
    'matting': 'Matting',
    'human_pose': 'HumanPose',
}
# Tasks whose network reads a crop of one person instead of the image: file and class, by name.
CROP_TASKS = {'human_pose': ('person_pose', 'PersonPose')}


def make_task(
    name: str, options: Mapping[str, Any] | None = None, where: str = '', reads_crops: bool = False
) -> Task:
    """
    Build a task by the name used in config files.

    :param options: options of the task, from checkpoint.yaml.
    :param reads_crops: make the task for crops of people, from `CROP_TASKS`.
    :raises ValueError: unknown name or option.
    """
    if name not in TASKS:
        at = f'{where}: ' if where else ''
        raise ValueError(f"{at}unknown task '{name}'; choose one of: {', '.join(TASKS)}")
    if reads_crops and name not in CROP_TASKS:
        raise ValueError(
            f'{where}: heat maps of joints are for {", ".join(CROP_TASKS)}, got {name}'
        )
    file, class_name = CROP_TASKS[name] if reads_crops else (name, TASKS[name])
    cls: type[Task] = getattr(importlib.import_module(f'{__name__}.{file}'), class_name)
    return build(cls, options or {}, where)
