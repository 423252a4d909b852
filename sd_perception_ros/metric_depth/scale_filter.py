"""What frames tell about one another: a scale that does not flicker, a reference that froze."""

from __future__ import annotations

from dataclasses import dataclass
import math

import cv2
import numpy as np
from numpy.typing import NDArray

from sd_perception_ros.config import check, option
from sd_perception_ros.metric_depth.scale import ScaleShift
from sd_perception_ros.types import UInt8

# A line is filtered by the depths that it gives at these relative values.
_ANCHORS = np.array([0.25, 0.75])
# Levels of 0..255 by which a small grey picture differs when the camera or the scene has moved.
_MOVED_LEVELS = 2.0
_THUMBNAIL = (32, 24)


@dataclass(frozen=True)
class FilterOptions:
    """How scale and shift are kept steady from frame to frame."""

    time_constant_s: float = option(
        0.3,
        'Scale and shift follow their measurements in this time; 0: at once',
        low=0.0,
        high=60.0,
    )
    gate: float = option(
        0.3,
        'A scale that jumps by more than this share is not believed at once',
        low=0.01,
        high=10.0,
    )
    persistence: int = option(
        3, 'So many frames that agree on a jump are believed', low=1, high=1000
    )
    max_gap_s: float = option(
        2.0, 'After so long without a measurement the filter starts anew', low=0.01, high=3600.0
    )

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        check(self)


class ScaleFilter:
    """
    Exponential smoothing of scale and shift, with a gate against single wrong ones.

    It smooths the logarithms of two depths that the line gives, since equal shares of depth should
    count equally. A measurement that jumps is refused until the next ones agree with it; then the
    filter starts anew there, for a network may normalise the next picture otherwise.
    """

    def __init__(self, options: FilterOptions) -> None:
        self._options = options
        self.reset()

    def reset(self) -> None:
        """Forget everything, after a jump of time."""
        self._state: NDArray[np.float64] | None = None
        self._jumped: NDArray[np.float64] | None = None
        self._jumps = 0
        self._time_s = -math.inf
        self._inverse = False

    def update(self, line: ScaleShift, time_s: float) -> ScaleShift | None:
        """
        Take a measurement and return the steady line; None while a jump is not believed.

        :param time_s: when the picture was taken; a step back, or a long gap, starts anew.
        """
        depths_m = line.depth_m(_ANCHORS)
        if not (np.isfinite(depths_m).all() and (depths_m > 0).all()):
            # In front of the camera at one end only: it cannot be smoothed, and is used as it is.
            self.reset()
            return line
        measured = np.log(depths_m)
        gap_s = time_s - self._time_s
        if line.inverse != self._inverse or not 0 <= gap_s <= self._options.max_gap_s:
            self.reset()
        self._time_s, self._inverse = time_s, line.inverse
        if self._state is None:
            self._state = measured
        elif self._is_jump(measured, self._state):
            follows = self._jumped is not None and not self._is_jump(measured, self._jumped)
            self._jumps = self._jumps + 1 if follows else 1
            self._jumped = measured
            if self._jumps < self._options.persistence:
                return None
            self._state, self._jumped, self._jumps = measured, None, 0
        else:
            self._jumped, self._jumps = None, 0
            tau_s = self._options.time_constant_s
            share = 1 - math.exp(-gap_s / tau_s) if tau_s > 0 else 1.0
            self._state = self._state + share * (measured - self._state)
        return _line(self._state, line.inverse)

    def _is_jump(self, measured: NDArray[np.float64], before: NDArray[np.float64]) -> bool:
        return bool(np.abs(measured - before).max() > math.log1p(self._options.gate))


class FrozenReference:
    """
    Notices a sensor that sends the same measurement again and again while the picture moves.

    Real sensors are noisy: two of their measurements are never equal to the last bit. One in a
    simulation may be, where nothing moves: so the picture counts, too.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget everything, after a jump of time."""
        self._data = b''
        self._seen: NDArray[np.float32] | None = None

    def is_frozen(self, data: bytes, rgb: UInt8) -> bool:
        """
        Compare with the picture that these very data came with first.

        :param data: the measurement, or a digest of it, without its stamp.
        :param rgb: (H, W, 3) the picture that it is paired with.
        """
        small = cv2.resize(rgb, _THUMBNAIL, interpolation=cv2.INTER_AREA).astype(np.float32)
        if data != self._data or self._seen is None:
            self._data, self._seen = data, small
            return False
        return bool(np.abs(small - self._seen).mean() > _MOVED_LEVELS)


def _line(log_depths: NDArray[np.float64], inverse: bool) -> ScaleShift:
    values = np.exp(-log_depths if inverse else log_depths)
    scale = (values[1] - values[0]) / (_ANCHORS[1] - _ANCHORS[0])
    return ScaleShift(float(scale), float(values[0] - scale * _ANCHORS[0]), inverse)
