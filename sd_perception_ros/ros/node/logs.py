"""What the core logs with Python's logging, said by the node."""

from __future__ import annotations

import logging

from rclpy.node import Node

CORE = logging.getLogger('sd_perception_ros')


class NodeLog(logging.Handler):
    """
    Hands the core's log, such as which weights were read and their licence, to a node's.

    :param node: says it, as long as the process lives.
    """

    def __init__(self, node: Node) -> None:
        super().__init__(logging.INFO)
        self._logger = node.get_logger()
        CORE.setLevel(logging.INFO)
        CORE.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Say one record; rclpy wants a line of its own for each severity."""
        text = record.getMessage()
        if record.levelno >= logging.ERROR:
            self._logger.error(text)
        elif record.levelno >= logging.WARNING:
            self._logger.warning(text)
        else:
            self._logger.info(text)
