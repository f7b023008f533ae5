"""Quality of service, by what a topic is for."""

from __future__ import annotations

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy


def _profile(depth: int, reliable: bool = True, latched: bool = False) -> QoSProfile:
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=depth,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )


STATE = _profile(10)  # events and chunks: none may be lost
COMMAND = _profile(1)  # set-points: only the newest counts
LATCHED = _profile(1, latched=True)  # the present state, also for whoever comes later
SENSOR = _profile(5, reliable=False)  # robot state, as a subscriber: takes reliable and best-effort publishers
STREAM = _profile(5)  # camera frames, as a publisher: best effort drops frames by default
# An emergency stop is heard whatever its publisher offers: best effort, reliable, or latched before this node was
# there. (A press that comes by two of them is pressed twice, which is the same.)
HEARD_FROM_ALL = (STATE, SENSOR, LATCHED)
STATICS = _profile(100, latched=True)  # /tf_static, as a subscriber: a publisher may have told one transform a message
MEASURED = _profile(200)  # robot state, as a publisher: a recorder that is held up for a second loses nothing
CLOCK = _profile(1, reliable=False)
