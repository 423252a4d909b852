"""Run the camera node on a source while the recorder records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import time
from typing import Any

from tqdm import tqdm

from sd_perception_ros.cli.demo.recording import answered_stamps, Part
from sd_perception_ros.cli.processes import parameter_arguments, Processes
from sd_perception_ros.ros.replay.recorder import INPUT, RecordedMessage, Recorder

_SPIN_S = 0.1
# Outputs that do not arrive within this time after the last image are lost.
_LAST_OUTPUTS_S = 5.0


class Player:
    """
    Runs the camera node and shows the progress of the recording.

    :param bar: progress bar with a step for each frame.
    :param patience_s: longest time without an output before an error.
    """

    def __init__(
        self, recorder: Recorder, nodes: Processes, bar: tqdm[Any], patience_s: float
    ) -> None:
        self._recorder, self._nodes, self._bar = recorder, nodes, bar
        self._patience_s = patience_s

    def wait_for_perception(self) -> None:
        """
        Wait until the perception node has loaded its model.

        :raises OSError: it ended, is not ready in time, or there is another camera.
        """
        self._spin_until(self._recorder.has_perception, 'the perception node is not ready')
        if self._recorder.has_camera():  # by now every node in this domain is known
            raise OSError(
                f"another node publishes '{INPUT}' in this ROS domain; end it, or set "
                'ROS_DOMAIN_ID to a number that is not in use'
            )

    def play(self, part: Part) -> list[RecordedMessage]:
        """
        Play every frame of a part once and return the recorded messages.

        The camera repeats its source. The recording starts at the first frame with all outputs,
        since discovery of the nodes may take seconds.

        :raises OSError: a node ended, or there are no messages.
        """
        self._recorder.take()
        self._nodes.start(
            'camera',
            parameter_arguments(
                {'source': part.source, 'rate_hz': part.rate_hz, 'wait_for_subscribers': True}
            ),
        )
        started_ns = time.time_ns()  # older stamps are of the previous part
        before, count = self._bar.n, len(part.names)

        def arrivals() -> list[RecordedMessage]:
            messages = [a for a in self._recorder.arrivals if a.stamp_ns > started_ns]
            return one_round(messages, self._recorder.outputs, count)

        def ended() -> bool:
            messages = arrivals()
            done = len(_image_stamps(messages))
            self._bar.set_description(f'{part.title} {done}/{count}', refresh=False)
            self._bar.n = before + done
            return done == count and self._is_finished(messages)

        self._spin_until(ended, f'no message while the camera played {part.title}')
        self._nodes.stop('camera')
        return arrivals()

    def _is_finished(self, messages: Sequence[RecordedMessage]) -> bool:
        """Return whether the outputs of the last image have arrived, or are lost."""
        last_ns = max(arrival.stamp_ns for arrival in messages)
        later = any(a.stamp_ns > last_ns and a.topic != INPUT for a in self._recorder.arrivals)
        silent_s = (time.time_ns() - last_ns) / 1e9
        answered = answered_stamps(messages, self._recorder.outputs)
        return last_ns in answered or later or silent_s > _LAST_OUTPUTS_S

    def _spin_until(self, condition: Callable[[], bool], problem: str) -> None:
        last_output, count = time.monotonic(), 0
        while not condition():
            self._recorder.spin(_SPIN_S)
            self._nodes.check()
            self._bar.update(0)  # show the elapsed time
            # A camera alone does not count: the node behind it may be stuck.
            answers = sum(arrival.topic != INPUT for arrival in self._recorder.arrivals)
            if answers > count:
                last_output, count = time.monotonic(), answers
            if time.monotonic() - last_output > self._patience_s:
                raise TimeoutError(
                    f'{problem}: {self._patience_s:g} s without an output; give a slow model '
                    f'more time with --patience{self._nodes.last_lines()}'
                )


def one_round(
    arrivals: Sequence[RecordedMessage], topics: Sequence[str], count: int
) -> list[RecordedMessage]:
    """Return the messages of `count` frames, starting with the first one that has all outputs."""
    first_ns = min(answered_stamps(arrivals, topics), default=None)
    if first_ns is None:
        return []
    stamps = [stamp_ns for stamp_ns in _image_stamps(arrivals) if stamp_ns >= first_ns][:count]
    last_ns = max(stamps, default=first_ns)
    return [arrival for arrival in arrivals if first_ns <= arrival.stamp_ns <= last_ns]


def _image_stamps(arrivals: Sequence[RecordedMessage]) -> list[int]:
    return sorted(arrival.stamp_ns for arrival in arrivals if arrival.topic == INPUT)
