"""Checks over time: a low-pass filter for the scale, and detection of a frozen sensor."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
import math

import cv2
import numpy as np
from numpy.typing import NDArray

from sd_perception_ros.config import check, option
from sd_perception_ros.metric_depth.scale import ScaleShift
from sd_perception_ros.types import UInt8

# The filter state is the metric depth at these relative values.
_ANCHORS = np.array([0.25, 0.75])
# Mean difference of two thumbnails, in levels of 0..255, if the camera or the scene has moved.
_MOTION_LEVELS = 2.0
_THUMBNAIL_SIZE = (32, 24)
# The same, for a part of the image: difference of a cell of the thumbnail, and share of the cells.
_CELL_LEVELS, _MOVED_CELLS = 15.0, 0.01
# Measurements that are remembered.
_MEASUREMENTS = 8


@dataclass(frozen=True)
class FilterOptions:
    """Low-pass filter for scale and shift."""

    time_constant_s: float = option(
        0.3,
        'Time constant of the low-pass filter; 0: no smoothing',
        low=0.0,
        high=60.0,
    )
    gate: float = option(
        0.3,
        'Reject a measurement that differs from the filtered value by more than this fraction',
        low=0.01,
        high=10.0,
    )
    persistence: int = option(
        3,
        'Accept a jump after this number of consecutive frames that agree on it',
        low=1,
        high=1000,
    )
    max_gap_s: float = option(
        2.0, 'Reset the filter after this time without a measurement', low=0.01, high=3600.0
    )

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        check(self)


class ScaleFilter:
    """
    Exponential smoothing of scale and shift, with a gate against outliers.

    The state is the logarithm of the metric depth at two relative values: equal relative errors
    then have equal weight. A measurement outside the gate is rejected until the next ones confirm
    it; then the filter restarts there, since a network may normalise another scene differently.
    """

    def __init__(self, options: FilterOptions) -> None:
        self._options = options
        self.reset()

    def reset(self) -> None:
        """Reset the state, for example after a jump in time."""
        self._state: NDArray[np.float64] | None = None
        self._rejected: NDArray[np.float64] | None = None
        self._rejected_count = 0
        self._time_s = -math.inf
        self._inverse = False

    def update(self, line: ScaleShift, time_s: float) -> ScaleShift | None:
        """
        Add a measurement and return the filtered value; None if the measurement is rejected.

        :param time_s: time stamp of the image; a step back or a long gap resets the filter.
        """
        depths_m = line.depth_m(_ANCHORS)
        if not (np.isfinite(depths_m).all() and (depths_m > 0).all()):
            # The logarithm is undefined: return the measurement without smoothing.
            self.reset()
            return line
        measurement = np.log(depths_m)
        gap_s = time_s - self._time_s
        if line.inverse != self._inverse or not 0 <= gap_s <= self._options.max_gap_s:
            self.reset()
        self._time_s, self._inverse = time_s, line.inverse
        if self._state is None:
            self._state = measurement
        elif self._is_jump(measurement, self._state):
            confirms = self._rejected is not None and not self._is_jump(
                measurement, self._rejected
            )
            self._rejected_count = self._rejected_count + 1 if confirms else 1
            self._rejected = measurement
            if self._rejected_count < self._options.persistence:
                return None
            self._state, self._rejected, self._rejected_count = measurement, None, 0
        else:
            self._rejected, self._rejected_count = None, 0
            tau_s = self._options.time_constant_s
            gain = 1 - math.exp(-gap_s / tau_s) if tau_s > 0 else 1.0
            self._state = self._state + gain * (measurement - self._state)
        return _line(self._state, line.inverse)

    def _is_jump(self, measurement: NDArray[np.float64], before: NDArray[np.float64]) -> bool:
        return bool(np.abs(measurement - before).max() > math.log1p(self._options.gate))


class FrozenSensorDetector:
    """
    Detect a sensor that repeats its measurements while the camera image changes.

    Real sensors are noisy: no two measurements are equal. Simulated ones may be, in a static
    scene; hence the comparison of the images.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget the previous measurements, for example after a jump in time."""
        # Several: a driver may send the same few buffers in turn.
        self._seen: OrderedDict[bytes, NDArray[np.float32]] = OrderedDict()

    def is_frozen(self, data: bytes, rgb: UInt8) -> bool:
        """
        Compare the image with the first one that was paired with the same data.

        :param data: the measurement or its hash, without the time stamp.
        :param rgb: (H, W, 3) image that the measurement is paired with.
        """
        resized = cv2.resize(rgb, _THUMBNAIL_SIZE, interpolation=cv2.INTER_AREA)
        thumbnail = resized.astype(np.float32)
        before = self._seen.setdefault(data, thumbnail)
        if len(self._seen) > _MEASUREMENTS:
            self._seen.popitem(last=False)
        change = np.abs(thumbnail - before)
        # The whole view moved, or somebody moves in it.
        moved_cells = (change.max(-1) > _CELL_LEVELS).mean()
        return bool(change.mean() > _MOTION_LEVELS or moved_cells > _MOVED_CELLS)


def _line(log_depths: NDArray[np.float64], inverse: bool) -> ScaleShift:
    """Return the scale and shift that give these depths at the anchors."""
    values = np.exp(-log_depths if inverse else log_depths)
    scale = (values[1] - values[0]) / (_ANCHORS[1] - _ANCHORS[0])
    return ScaleShift(float(scale), float(values[0] - scale * _ANCHORS[0]), inverse)
