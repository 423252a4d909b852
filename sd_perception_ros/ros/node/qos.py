"""Quality of service: what loses no large message, and what fits the publisher that is there."""

from __future__ import annotations

from rclpy.node import Node
from rclpy.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    QoSProfile,
    ReliabilityPolicy,
)

# Best effort loses every message of 0.92 MB or more on default Fast DDS (VGA rgb8 is that large).
# A history of one loses outputs on a busy machine: the next frame replaces a message whose lost
# fragments were still to be sent again (measured: 15 to 38 of 40 arrived; with five, 37 to 40).
OUTPUT = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=5,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.VOLATILE,
)
# For a message that is sent once: who subscribes later gets it as well.
LATCHED = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)
CHOICES = {
    'reliable': ReliabilityPolicy.RELIABLE,
    'best_effort': ReliabilityPolicy.BEST_EFFORT,
}


def input_qos(reliability: ReliabilityPolicy) -> QoSProfile:
    """Subscribe with a few frames of slack, so that a busy moment of the executor loses none."""
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=5,
        reliability=reliability,
        durability=DurabilityPolicy.VOLATILE,
    )


def resolve_reliability(node: Node, topic: str, wanted: str) -> ReliabilityPolicy:
    """
    Decide the reliability of a subscription.

    :param topic: fully resolved topic name.
    :param wanted: 'reliable', 'best_effort', or 'auto': reliable, unless a publisher of the
        topic offers best effort only (a reliable subscription would get nothing from it).
    """
    if wanted in CHOICES:
        return CHOICES[wanted]
    offered = [info.qos_profile.reliability for info in node.get_publishers_info_by_topic(topic)]
    if ReliabilityPolicy.BEST_EFFORT in offered:
        return ReliabilityPolicy.BEST_EFFORT
    return ReliabilityPolicy.RELIABLE
