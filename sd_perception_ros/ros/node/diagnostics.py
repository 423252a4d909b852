"""Counters, durations and problems of a node, for /diagnostics."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
import statistics
import threading

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

# Number of latest durations in the statistics.
_WINDOW = 200


class NodeStatistics:
    """Counters and durations of a node; any thread may write."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._times_ms: dict[str, deque[float]] = {}
        self._values_set: dict[str, str] = {}
        self._level = DiagnosticStatus.OK
        self._summary = ''
        self.last_error = ''

    def count(self, name: str, by: int = 1) -> None:
        """Add to a counter, for example 'received' or 'dropped: too_old'."""
        with self._lock:
            self._counts[name] += by

    def time(self, name: str, milliseconds: float) -> None:
        """Add a duration, for example of 'inference'."""
        with self._lock:
            self._times_ms.setdefault(name, deque(maxlen=_WINDOW)).append(milliseconds)

    def set(self, name: str, text: str) -> None:
        """Set a value of the latest frame, for example its scale."""
        with self._lock:
            self._values_set[name] = text

    def warn(self, message: str) -> None:
        """Make the next status a warning with this message, unless it is an error already."""
        with self._lock:
            self._raise_level(DiagnosticStatus.WARN, message)

    def error(self, message: str, counter: str = '') -> None:
        """
        Make the next status an error with this message.

        :param counter: is increased, too: no status has the one without the other.
        """
        with self._lock:
            if counter:
                self._counts[counter] += 1
            self.last_error = message
            self._raise_level(DiagnosticStatus.ERROR, message)

    def status(self, name: str, hardware: str, healthy: str) -> DiagnosticStatus:
        """
        Return the status since the last call, and reset its level.

        :param healthy: message of the level OK.
        """
        with self._lock:
            status = DiagnosticStatus(name=name, hardware_id=hardware)
            status.level, status.message = self._level, self._summary or healthy
            self._level, self._summary = DiagnosticStatus.OK, ''
            status.values = [KeyValue(key=key, value=value) for key, value in self._values()]
        return status

    def _raise_level(self, level: bytes, message: str) -> None:
        if level > self._level:
            self._level, self._summary = level, message

    def _values(self) -> Iterable[tuple[str, str]]:
        for name, count in sorted(self._counts.items()):
            yield name, str(count)
        for name, times in self._times_ms.items():
            ordered = sorted(times)
            yield f'{name}_ms median', f'{statistics.median(ordered):.2f}'
            for percent in (95, 99):
                value = ordered[percent * (len(ordered) - 1) // 100]
                yield f'{name}_ms p{percent}', f'{value:.2f}'
        yield from self._values_set.items()
        yield 'last error', self.last_error


def diagnostic_array(status: DiagnosticStatus, stamp: object) -> DiagnosticArray:
    """Make the message of one status for the topic /diagnostics."""
    array = DiagnosticArray(status=[status])
    array.header.stamp = stamp
    return array
