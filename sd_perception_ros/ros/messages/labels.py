"""Masks of segmentation classes, and the message with the names of the class ids."""

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

# Name of the segmentation class of people.
PERSON = 'person'
LABEL_INFO: type = LabelInfo or String
LABEL_INFO_LOG_TEXT = (
    ''
    if LabelInfo
    else 'vision_msgs is not installed: segmentation/label_info is a std_msgs/String of JSON'
)


def mask_ids(class_names: Sequence[str], options: SegmentationOptions) -> list[int]:
    """
    Return the ids of the classes of `segmentation.mask_classes`.

    :returns: empty if the option has its default and the model has none of its classes.
    :raises ValueError: the option was set and names a class that the model lacks.
    """
    if options.mask_classes == SegmentationOptions().mask_classes:
        return [i for i, name in enumerate(class_names) if name in options.mask_classes]
    return class_ids(class_names, options.mask_classes, 'segmentation.mask_classes')


def class_ids(class_names: Sequence[str], selected: Sequence[str], option: str = '') -> list[int]:
    """
    Return the ids of the selected classes.

    :param selected: names; empty names are ignored, since ROS parameter files have no empty
        lists ([''] is one).
    :param option: name of the option, for the error.
    :raises ValueError: the model lacks a selected class.
    """
    selected = [name for name in selected if name]
    unknown = [name for name in selected if name not in class_names]
    if unknown:
        raise ValueError(
            f"{option}: the checkpoint has no class '{unknown[0]}'; choose from: "
            f'{", ".join(class_names)}'
        )
    return [i for i, name in enumerate(class_names) if name in selected]


def class_mask(labels: UInt8, ids: Sequence[int]) -> UInt8:
    """Return 255 where (H, W) class ids are in `ids`, else 0."""
    table = np.zeros(256, np.uint8)
    table[list(ids)] = 255
    return np.asarray(cv2.LUT(labels, table), np.uint8)


def label_info(class_names: Sequence[str]) -> Any:
    """
    Make the message with the names of the class ids.

    :returns: vision_msgs/LabelInfo; if not installed, a std_msgs/String with its fields as JSON.
    """
    if LabelInfo is None:
        classes = [{'class_id': i, 'class_name': name} for i, name in enumerate(class_names)]
        return String(data=json.dumps({'class_map': classes, 'threshold': 0.0}))
    return LabelInfo(
        class_map=[VisionClass(class_id=i, class_name=name) for i, name in enumerate(class_names)]
    )
