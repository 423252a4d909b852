"""Class ids to masks, and the message that tells the names of the ids."""

from __future__ import annotations

from collections.abc import Sequence
import json
from typing import Any

import cv2
import numpy as np
from std_msgs.msg import String

try:
    from vision_msgs.msg import LabelInfo, VisionClass
except ImportError:  # not in every ROS installation, and not among the wheels of PyPI
    LabelInfo = VisionClass = None

from sd_perception_ros.ros.options import SegmentationOptions
from sd_perception_ros.types import UInt8

# What a class of people is called.
PERSON = 'person'
LABEL_INFO: type = LabelInfo or String
LABEL_NOTE = (
    ''
    if LabelInfo
    else 'vision_msgs is not installed: segmentation/label_info is a std_msgs/String of JSON'
)


def mask_ids(class_names: Sequence[str], options: SegmentationOptions) -> list[int]:
    """
    Return the ids of the classes to mask.

    :returns: empty where a model has none of the classes that are the default.
    :raises ValueError: the model has no class of a name that somebody has chosen.
    """
    if options.mask_classes == SegmentationOptions().mask_classes:
        return [i for i, name in enumerate(class_names) if name in options.mask_classes]
    return class_ids(class_names, options.mask_classes, 'segmentation.mask_classes')


def class_ids(class_names: Sequence[str], chosen: Sequence[str], option: str = '') -> list[int]:
    """
    Return the ids of the chosen classes.

    An empty name chooses none: a parameter file cannot say an empty list.

    :raises ValueError: the model has no class of such a name; the option is told.
    """
    chosen = [name for name in chosen if name]
    unknown = [name for name in chosen if name not in class_names]
    if unknown:
        raise ValueError(
            f"{option}: the checkpoint has no class '{unknown[0]}'; choose from: "
            f'{", ".join(class_names)}'
        )
    return [i for i, name in enumerate(class_names) if name in chosen]


def mask_of(labels: UInt8, ids: Sequence[int]) -> UInt8:
    """Return 255 where (H, W) class ids are among these, else 0."""
    table = np.zeros(256, np.uint8)
    table[list(ids)] = 255
    return np.asarray(cv2.LUT(labels, table), np.uint8)


def label_info(class_names: Sequence[str]) -> Any:
    """
    Tell the names of the class ids.

    :returns: vision_msgs/LabelInfo, or a std_msgs/String with the same fields as JSON.
    """
    if LabelInfo is None:
        classes = [{'class_id': i, 'class_name': name} for i, name in enumerate(class_names)]
        return String(data=json.dumps({'class_map': classes, 'threshold': 0.0}))
    return LabelInfo(
        class_map=[VisionClass(class_id=i, class_name=name) for i, name in enumerate(class_names)]
    )
