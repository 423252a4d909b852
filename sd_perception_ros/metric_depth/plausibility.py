"""Refuse impossible references: wrong units, ranges or angles, constant data."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from sd_perception_ros.metric_depth.references import References
from sd_perception_ros.types import Float

# Fewer values are not checked.
_MIN_VALUES = 20
# Maximum fraction of the references outside the range of metric depth.
_MAX_OUTSIDE = 0.5
# If all values are whole numbers and so many of them differ, the unit is millimetres.
_MIN_WHOLE_NUMBERS = 10
_WHOLE_TURN = 2 * math.pi + 0.1
# Maximum difference between `angle_max` and the angle of the last beam, in beams and as a fraction
# of the scan: drivers define angle_max differently.
_MAX_BEAMS_OFF, _MAX_SHARE_OFF = 3, 0.05


class ScanGeometry(NamedTuple):
    """Fields of a sensor_msgs/LaserScan; metres and radians."""

    angle_min: float
    angle_max: float
    angle_increment: float
    range_min: float
    range_max: float


def check_depth(references: References, depth_m: Float, in_metres: bool, sensor: str) -> None:
    """
    Refuse a depth image in a wrong unit, or whose values are all equal.

    :param references: references from the depth image, as of `from_depth`.
    :param depth_m: (H, W) metres, as converted from the message.
    :param in_metres: the message is in metres (32FC1), not in millimetres.
    :param sensor: name of the sensor for errors, for example its topic.
    :raises ValueError: the values are probably in another unit, or all equal.
    """
    if not len(references):
        values = depth_m[np.isfinite(depth_m) & (depth_m > 0)]
        if len(values) >= _MIN_VALUES:
            unit = '32FC1 is in metres' if in_metres else '16UC1 and mono16 are in millimetres'
            raise ValueError(
                f'all depths of {sensor} are at most {float(values.max()):g} m: {unit} '
                '(REP 118); the sensor sends another unit'
            )
    if len(references) >= _MIN_VALUES:
        if in_metres:
            _check_unit(references.depth_m, sensor)
        _check_constant(references.depth_m, sensor)


def check_scan(ranges_m: Float, scan: ScanGeometry, sensor: str) -> None:
    """
    Refuse a laser scan with contradictory fields.

    :param ranges_m: (N,) as in the message.
    :raises ValueError: with the contradictory values.
    """
    if not len(ranges_m):
        return
    if not all(map(math.isfinite, scan[:-1])) or math.isnan(scan.range_max):
        raise ValueError(f'{sensor} has fields that are not finite: {scan}')
    if not 0 <= scan.range_min < scan.range_max:
        raise ValueError(
            f'{sensor} has range_min {scan.range_min:g} and range_max {scan.range_max:g}; '
            'range_max must be larger'
        )
    beams, step = len(ranges_m), scan.angle_increment
    span = step * (beams - 1)
    last = scan.angle_min + span
    if max(abs(scan.angle_min), abs(last), abs(span)) > _WHOLE_TURN:
        raise ValueError(
            f'the beams of {sensor} go from {scan.angle_min:g} to {last:g} rad, more than a '
            'whole turn; angles are in radians'
        )
    if beams > 1 and step == 0:
        raise ValueError(f'{sensor} has {beams} beams and an angle_increment of 0')
    tolerance = _MAX_BEAMS_OFF * abs(step) + _MAX_SHARE_OFF * abs(span)
    if scan.angle_max and abs(last - scan.angle_max) > tolerance:
        raise ValueError(
            f'{sensor} has angle_max {scan.angle_max:g} rad, but its {beams} beams end at '
            f'{last:g} rad'
        )
    values = ranges_m[np.isfinite(ranges_m) & (ranges_m > 0)]
    if len(values) < _MIN_VALUES:
        return
    if not ((values >= scan.range_min) & (values <= scan.range_max)).any():
        raise ValueError(
            f'all ranges of {sensor} lie outside its range_min {scan.range_min:g} and range_max '
            f'{scan.range_max:g} m, for example {values[0]:g}; is it in another unit?'
        )
    _check_unit(values, sensor)
    _check_constant(values, sensor)


def check_range(references: References, range_m: tuple[float, float], sensor: str) -> None:
    """
    Refuse references if most of them lie outside the range of metric depth.

    :param range_m: depth.min_range_m and depth.max_range_m.
    :raises ValueError: with an example value.
    """
    low, high = range_m
    outside = (references.depth_m < low) | (references.depth_m > high)
    if len(references) and outside.mean() > _MAX_OUTSIDE:
        raise ValueError(
            f'{outside.mean():.0%} of the depths of {sensor} lie outside depth.min_range_m '
            f'{low:g} and depth.max_range_m {high:g}, for example '
            f'{float(np.median(references.depth_m[outside])):g} m; is it in another unit?'
        )


def _check_unit(values: Float, sensor: str) -> None:
    whole = values[values == np.round(values)]
    if len(whole) == len(values) and len(np.unique(whole)) >= _MIN_WHOLE_NUMBERS:
        raise ValueError(
            f'{sensor} has whole numbers only, for example {values[0]:g} m: they are probably '
            'millimetres; send metres (REP 103, REP 118)'
        )


def _check_constant(values: Float, sensor: str) -> None:
    if values.min() == values.max():
        raise ValueError(
            f'all {len(values)} values of {sensor} are {float(values[0]):g} m: it measures '
            'nothing; restart the sensor'
        )
