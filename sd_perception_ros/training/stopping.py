"""Ctrl-C and SIGTERM in a training: finish the step, save it, then stop."""

from __future__ import annotations

import signal
import threading
from types import FrameType


class GracefulStop:
    """
    Records the first Ctrl-C or SIGTERM as `requested`; a second one raises KeyboardInterrupt.

    With several processes, the first one raises as well: the processes would stop after different
    steps and wait for each other.
    """

    def __init__(self, processes: int) -> None:
        self.requested = False
        self._signals: list[signal.Signals] = []
        if processes == 1 and threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                # Leave handlers that others have set.
                if signal.getsignal(number) is signal.default_int_handler:
                    signal.signal(number, self._handle)
                    self._signals.append(number)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True

    def close(self) -> None:
        """Restore the default handlers."""
        for number in self._signals:
            signal.signal(number, signal.default_int_handler)
