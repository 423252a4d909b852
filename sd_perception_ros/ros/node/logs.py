"""Log messages of the core (Python's logging) in the node's log."""

from __future__ import annotations

import logging

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
