"""Smaller batches and pictures after the memory was exhausted, and the way back."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
import time
from typing import TYPE_CHECKING
import weakref

from sd_perception_ros.people.boxes import Box
from sd_perception_ros.ros.node.errors import is_out_of_memory
from sd_perception_ros.ros.node.shutdown import SURVIVABLE_ERRORS
from sd_perception_ros.types import Prediction, UInt8

if TYPE_CHECKING:
    from sd_perception_ros.engine import Engine

_MIN_LONG_SIDE_PX = 64
_FIRST_RETRY_S, _LAST_RETRY_S = 60.0, 3600.0


class MemoryFallback:
    """
    Run the network with less memory if it is exhausted: picture by picture, then smaller pictures.

    After a minute the full batch and size are tried again; if they fail, the next trial comes
    after twice the time, and an hour at most.

    :param log: called with a text when the fallback begins and when it ends.
    :param clock_s: seconds, steady.
    """

    def __init__(
        self, log: Callable[[str], None], clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._log, self._clock_s = log, clock_s
        self._engine: Callable[[], Engine | None] = lambda: None
        self._wait_s, self._retry_at_s = _FIRST_RETRY_S, 0.0
        self._one_by_one, self._long_side_px = False, 0

    @property
    def state(self) -> str:
        """Reduction of batch and size now, for diagnostics; empty: none."""
        parts = ['one picture at a time'] if self._one_by_one else []
        parts += [f'long side {self._long_side_px} px'] if self._long_side_px else []
        return ', '.join(parts)

    def predict(
        self,
        engine: Engine,
        pictures: Sequence[UInt8],
        tasks: Collection[str],
        boxes: Sequence[Sequence[Box]] | None,
    ) -> list[dict[str, Prediction]]:
        """Call `Engine.predict` with the same arguments; raises what it raises."""
        if self._engine() is not engine:
            self._engine = weakref.ref(engine)
            self._reset()
        was_reduced = bool(self.state)
        is_trial = was_reduced and self._clock_s() >= self._retry_at_s
        if is_trial:
            self._set(engine, one_by_one=False, long_side_px=0)
        while True:
            try:
                results = self._run(engine, pictures, tasks, boxes)
            except SURVIVABLE_ERRORS as error:
                if not is_out_of_memory(error) or not self._reduce(engine, pictures):
                    raise
            else:
                self._report(was_reduced, is_trial)
                return results

    def _run(
        self,
        engine: Engine,
        pictures: Sequence[UInt8],
        tasks: Collection[str],
        boxes: Sequence[Sequence[Box]] | None,
    ) -> list[dict[str, Prediction]]:
        if not self._one_by_one:
            return engine.predict(pictures, tasks, boxes)
        results = []
        for index, picture in enumerate(pictures):
            own_boxes = None if boxes is None else [boxes[index]]
            results += engine.predict([picture], tasks, own_boxes)
        return results

    def _reduce(self, engine: Engine, pictures: Sequence[UInt8]) -> bool:
        """Reduce the batch or the size; return whether that was possible."""
        self._retry_at_s = self._clock_s() + self._wait_s
        if len(pictures) > 1 and not self._one_by_one:
            self._set(engine, one_by_one=True, long_side_px=self._long_side_px)
            return True
        largest_px = max(max(picture.shape[:2]) for picture in pictures)
        long_side_px = engine.long_side_of(largest_px) // 2
        if long_side_px < _MIN_LONG_SIDE_PX:
            return False
        self._set(engine, one_by_one=self._one_by_one, long_side_px=long_side_px)
        return True

    def _set(self, engine: Engine, one_by_one: bool, long_side_px: int) -> None:
        self._one_by_one, self._long_side_px = one_by_one, long_side_px
        engine.limit_long_side(long_side_px)

    def _report(self, was_reduced: bool, is_trial: bool) -> None:
        if self.state and not was_reduced:
            self._log(
                f'out of memory: {self.state} from now on, full batch and size are tried again '
                f'in {self._wait_s:.0f} s; set a smaller long_side_px or fewer tasks'
            )
        elif is_trial and self.state:
            self._wait_s = min(2 * self._wait_s, _LAST_RETRY_S)
            self._retry_at_s = self._clock_s() + self._wait_s
        elif is_trial:
            self._log('enough memory again: full batch and size')
            self._wait_s = _FIRST_RETRY_S

    def _reset(self) -> None:
        self._one_by_one, self._long_side_px = False, 0
        self._wait_s, self._retry_at_s = _FIRST_RETRY_S, 0.0
