"""Quality of service of the stack's topics, by what a topic is for."""

from __future__ import annotations

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy


def profile(depth: int, *, reliable: bool = True, latched: bool = False) -> QoSProfile:
    """A profile that keeps the last messages.

    Args:
        depth: Messages to keep.
        reliable: Whether lost messages are sent again.
        latched: Whether a subscription that is made later receives the newest messages (transient local).

    Returns:
        The profile.
    """
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=depth,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )


STATE = profile(10)  # events and chunks: none may be lost
COMMAND = profile(1)  # set-points: only the newest counts
LATCHED = profile(1, latched=True)  # present state, also for subscriptions made later
SENSOR = profile(5, reliable=False)  # robot state, as a subscription: matches reliable and best-effort publishers
STREAM = profile(5)  # camera frames, as a publisher: best effort drops frames by default
# Subscriptions of an emergency stop: together they match every publisher, best effort, reliable, or latched before the
# node started. A press received by two of them is pressed twice, which has the same effect.
EMERGENCY_STOP = (STATE, SENSOR, LATCHED)
STATICS = profile(100, latched=True)  # /tf_static, as a subscription: a publisher may send one transform a message
MEASURED = profile(200)  # robot state, as a publisher: a recorder that stalls for a second loses nothing
NEWEST = profile(1, reliable=False)  # best effort, only the newest counts: /clock, state at a controller's rate
ROSOUT = profile(200, latched=True)  # /rosout, as a subscription
