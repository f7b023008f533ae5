"""Everything that was said on a topic, for a test that looks at what has passed."""

from __future__ import annotations

from rclpy.qos import HistoryPolicy, QoSProfile


def whole(qos: QoSProfile | int) -> QoSProfile:
    """As `qos`, with a queue that a held-up test does not lose from.

    With a latched topic's queue of 1 a state that lasts shorter than the test is held up is overwritten unseen.
    """
    if isinstance(qos, int):
        return QoSProfile(depth=1000)
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST, depth=1000, reliability=qos.reliability, durability=qos.durability
    )
