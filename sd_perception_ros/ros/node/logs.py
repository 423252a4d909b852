"""Log messages of the core (Python's logging) in the node's log."""

from __future__ import annotations

import logging
import re
import time
from typing import Any

from rclpy.node import Node

CORE = logging.getLogger('sd_perception_ros')


class NodeLog(logging.Handler):
    """
    Forward the core's log messages, such as files and licences of weights, to a node's logger.

    :param node: its logger is used until the process ends.
    """

    def __init__(self, node: Node) -> None:
        super().__init__(logging.INFO)
        self._logger = node.get_logger()
        CORE.setLevel(logging.INFO)
        CORE.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Log one record; rclpy needs a separate call site for each severity."""
        text = record.getMessage()
        if record.levelno >= logging.ERROR:
            self._logger.error(text)
        elif record.levelno >= logging.WARNING:
            self._logger.warning(text)
        else:
            self._logger.info(text)


class PersistentWarning:
    """
    A warning in the log for a problem that lasts; a single bad frame gives none.

    :param logger: of the node.
    :param after_s: the problem is logged if it is reported again after this time.
    :param every_s: the same problem is logged again after this time.
    """

    _FORGOTTEN_S = 10.0  # a problem that is not reported for so long has ended

    def __init__(self, logger: Any, after_s: float = 1.0, every_s: float = 30.0) -> None:
        self._logger, self._after_s, self._every_s = logger, after_s, every_s
        self._since_s = self._reported_s = self._logged_s = -float('inf')
        self._kind = ''

    def report(self, text: str) -> None:
        """Report the problem of a frame."""
        now_s = time.monotonic()
        if now_s - self._reported_s > self._FORGOTTEN_S:
            self._since_s = now_s
        self._reported_s = now_s
        if now_s - self._since_s < self._after_s:
            return
        kind = re.sub(r'[\d.]+', '', text)  # texts with other numbers are of the same problem
        if kind != self._kind or now_s - self._logged_s >= self._every_s:
            self._kind, self._logged_s = kind, now_s
            self._logger.warning(text)

    def clear(self) -> None:
        """Report a frame without the problem."""
        self._reported_s = -float('inf')
