"""Message definitions for bags that are written where neither ROS nor our packages are installed.

The standard ones come with rosbags. Ours are said again here, comments left out; a test holds them against the
.msg files of openvla_msgs.
"""

from __future__ import annotations

from functools import lru_cache

from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

OWN = {
    "openvla_msgs/msg/EndEffectorDelta": """
geometry_msgs/Vector3 translation
geometry_msgs/Vector3 rotation
float64 gripper
""",
    "openvla_msgs/msg/ActionChunk": """
string SOURCE_POLICY=policy
string SOURCE_EXPERT=expert
string SOURCE_TELEOP=teleop
string SOURCE_REPLAY=replay
std_msgs/Header header
builtin_interfaces/Time observation_stamp
uint64 sequence
string source
string instruction
float64 period
EndEffectorDelta[] actions
string statistics_name
string statistics_hash
float64 latency_preparation
float64 latency_inference
float64 latency_total
""",
}


@lru_cache(maxsize=1)
def typestore() -> Typestore:
    """Jazzy's message types and ours."""
    store = get_typestore(Stores.ROS2_JAZZY)
    types = {}
    for name, text in OWN.items():
        types.update(get_types_from_msg(text, name))
    store.register(types)
    return store
