"""Subscriptions that keep every message, for a test that checks past messages."""

from __future__ import annotations

from rclpy.qos import HistoryPolicy, QoSProfile


def whole(qos: QoSProfile | int) -> QoSProfile:
    """`qos` with a queue that does not overflow while the test is blocked.

    With the queue of 1 of a latched topic a short state would be overwritten before the test receives it.
    """
    if isinstance(qos, int):
        return QoSProfile(depth=1000)
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST, depth=1000, reliability=qos.reliability, durability=qos.durability
    )
