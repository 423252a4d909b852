"""Boxes around people from the messages of a detector."""

from __future__ import annotations

from collections.abc import Collection
import json
import math
from types import SimpleNamespace
from typing import Any

from std_msgs.msg import Header, String

try:
    from vision_msgs.msg import Detection2DArray
except ImportError:  # not in every ROS installation, and not among the wheels of PyPI
    Detection2DArray = None

from sd_perception_ros.people.boxes import Box

DETECTIONS: type = Detection2DArray or String
DETECTIONS_LOG_TEXT = (
    ''
    if Detection2DArray
    else 'vision_msgs is not installed: detections are taken from a std_msgs/String of JSON with '
    'the fields of vision_msgs/Detection2DArray'
)


def read_detections(msg: Any) -> tuple[Header, list[Any]]:
    """
    Return header and detections of a message.

    :param msg: vision_msgs/Detection2DArray, or a std_msgs/String with the same fields as JSON.
    :returns: header, and detections with the fields of vision_msgs/Detection2D.
    :raises ValueError: the text is not JSON with these fields.
    """
    if not isinstance(msg, String):
        return msg.header, list(msg.detections)
    try:
        values = json.loads(msg.data, object_hook=lambda fields: SimpleNamespace(**fields))
        header = Header(frame_id=values.header.frame_id)
        header.stamp.sec = values.header.stamp.sec
        header.stamp.nanosec = values.header.stamp.nanosec
        for detection in values.detections:
            _box(detection, 1.0)
            _person_score(detection, ())
        return header, list(values.detections)
    except (ValueError, AttributeError, TypeError, AssertionError) as error:
        raise ValueError(
            'expected JSON with the fields of vision_msgs/Detection2DArray, got '
            f'{msg.data[:40]!r} ({error})'
        ) from None


def boxes_of_detections(
    detections: list[Any], classes: Collection[str], min_score: float
) -> list[Box]:
    """
    Return the boxes of people.

    :param classes: class_id of people; a detection without a class counts as a person.
    :param min_score: detections with a lower score, or without an area, are left out.
    """
    boxes = []
    for detection in detections:
        score = _person_score(detection, classes)
        if score is None or not score >= min_score:
            continue
        box = _box(detection, min(score, 1.0))
        if all(math.isfinite(value) for value in box) and box.width > 0 and box.height > 0:
            boxes.append(box)
    return boxes


def _person_score(detection: Any, classes: Collection[str]) -> float | None:
    """Return the highest score of a person class; 1 without classes, None for other classes."""
    if not detection.results:
        return 1.0
    hypotheses = [result.hypothesis for result in detection.results]
    scores = [float(h.score) for h in hypotheses if str(h.class_id) in classes]
    return max(scores, default=None)


def _box(detection: Any, score: float) -> Box:
    box = detection.bbox
    width, height = float(box.size_x), float(box.size_y)
    center = box.center.position
    return Box(float(center.x) - width / 2, float(center.y) - height / 2, width, height, score)
