"""Message definitions for bags that are written where neither ROS nor openvla_msgs is installed.

The standard ones are part of rosbags. Those of openvla_msgs are repeated here without comments; a test compares them
with the .msg files.
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
    """Return the message types of ROS 2 Jazzy and openvla_msgs."""
    store = get_typestore(Stores.ROS2_JAZZY)
    types = {}
    for name, text in OWN.items():
        types.update(get_types_from_msg(text, name))
    store.register(types)
    return store
