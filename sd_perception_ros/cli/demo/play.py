"""Let the camera node play something, while the recorder listens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import time
from typing import Any

from tqdm import tqdm

from sd_perception_ros.cli.demo.recording import answered_stamps, Part
from sd_perception_ros.cli.processes import parameter_arguments, Processes
from sd_perception_ros.ros.replay.recorder import INPUT, RecordedMessage, Recorder

_SPIN_S = 0.1
# After the last picture, so long may the outputs stay away before they count as lost.
_LAST_WORDS_S = 5.0


class Player:
    """
    Waits for nodes and shows on a bar how far they are.

    :param bar: one step for each frame that is played.
    :param patience_s: so long may no output come before that is an error.
    """

    def __init__(
        self, recorder: Recorder, nodes: Processes, bar: tqdm[Any], patience_s: float
    ) -> None:
        self._recorder, self._nodes, self._bar = recorder, nodes, bar
        self._patience_s = patience_s

    def wait_for_perception(self) -> None:
        """
        Wait until the perception node has loaded its model.

        :raises OSError: it ended, is not ready in time, or another camera is there.
        """
        self._spin_until(self._recorder.has_perception, 'the perception node is not ready')
        if self._recorder.has_camera():  # by now every node in this domain is known
            raise OSError(
                f"another node publishes '{INPUT}' in this ROS domain; end it, or set "
                'ROS_DOMAIN_ID to a number that is not in use'
            )

    def play(self, part: Part) -> list[RecordedMessage]:
        """
        Play every frame of a part once and return what came.

        The camera goes round and round, and the round that counts begins with the first frame
        that comes with all its outputs: nodes may take seconds to find one another, in any order.

        :raises OSError: a node ended, or nothing comes.
        """
        self._recorder.take()
        self._nodes.start(
            'camera',
            parameter_arguments(
                {'source': part.source, 'rate_hz': part.rate_hz, 'wait_for_subscribers': True}
            ),
        )
        started_ns = time.time_ns()  # an older stamp is of the part before
        before, count = self._bar.n, len(part.names)

        def arrivals() -> list[RecordedMessage]:
            came = [a for a in self._recorder.arrivals if a.stamp_ns > started_ns]
            return one_round(came, self._recorder.outputs, count)

        def ended() -> bool:
            came = arrivals()
            done = len(_pictures(came))
            self._bar.set_description(f'{part.title} {done}/{count}', refresh=False)
            self._bar.n = before + done
            return done == count and self._is_over(came)

        self._spin_until(ended, f'nothing came while the camera played {part.title}')
        self._nodes.stop('camera')
        return arrivals()

    def _is_over(self, came: Sequence[RecordedMessage]) -> bool:
        """Tell whether the last picture is answered, or will not be."""
        last_ns = max(arrival.stamp_ns for arrival in came)
        later = any(a.stamp_ns > last_ns and a.topic != INPUT for a in self._recorder.arrivals)
        silent_s = (time.time_ns() - last_ns) / 1e9
        answered = answered_stamps(came, self._recorder.outputs)
        return last_ns in answered or later or silent_s > _LAST_WORDS_S

    def _spin_until(self, condition: Callable[[], bool], complaint: str) -> None:
        heard, count = time.monotonic(), 0
        while not condition():
            self._recorder.spin(_SPIN_S)
            self._nodes.check()
            self._bar.update(0)  # the time goes on
            # A camera alone does not count: the node behind it may be stuck.
            answers = sum(arrival.topic != INPUT for arrival in self._recorder.arrivals)
            if answers > count:
                heard, count = time.monotonic(), answers
            if time.monotonic() - heard > self._patience_s:
                raise TimeoutError(
                    f'{complaint}: {self._patience_s:g} s without an output; give a slow model '
                    f'more time with --patience{self._nodes.last_lines()}'
                )


def one_round(
    arrivals: Sequence[RecordedMessage], topics: Sequence[str], count: int
) -> list[RecordedMessage]:
    """Pick what belongs to so many frames, beginning with the first that came complete."""
    first_ns = min(answered_stamps(arrivals, topics), default=None)
    if first_ns is None:
        return []
    pictures = [stamp_ns for stamp_ns in _pictures(arrivals) if stamp_ns >= first_ns][:count]
    last_ns = max(pictures, default=first_ns)
    return [arrival for arrival in arrivals if first_ns <= arrival.stamp_ns <= last_ns]


def _pictures(arrivals: Sequence[RecordedMessage]) -> list[int]:
    return sorted(arrival.stamp_ns for arrival in arrivals if arrival.topic == INPUT)
