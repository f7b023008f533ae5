"""Pose, hand and target of any robot on the stack's own topics, whatever names its driver has for them."""

from __future__ import annotations

from collections.abc import Sequence

from geometry_msgs.msg import PoseStamped
from sensor_msgs.msg import JointState

from openvla_ros.geometry import Pose
from openvla_ros.nodes.bridge.parameters import BridgeParameters
from openvla_ros.nodes.common import conversions
from openvla_ros.nodes.common.lifecycle_node import ManagedNode
from openvla_ros.nodes.common.qos import MEASURED

PERIOD_NS = 9_000_000  # between two messages on a topic: 100 Hz, and a robot of that rate whole


class Shown:
    """What the stack's own topics say of any robot: recorder, teleoperation and live view listen to nothing else.

    A robot that speaks on one of them itself says it alone.
    """

    def __init__(self, node: ManagedNode[BridgeParameters], spoken: Sequence[str]) -> None:
        """spoken: the topics that robot and adapter use anyway."""
        own = {node.resolve_topic_name(topic) for topic in spoken}
        kinds = {
            "robot/ee_pose": PoseStamped, "robot/target_pose": PoseStamped,
            "gripper/state": JointState,
        }  # fmt: skip
        self._frame = node.parameters.base_frame
        self._publishers = {
            topic: node.publisher(kind, topic, MEASURED)
            for topic, kind in kinds.items() if node.resolve_topic_name(topic) not in own
        }  # fmt: skip
        self._said_ns: dict[str, int] = {}

    def pose(self, topic: str, pose: Pose, stamp_ns: int) -> None:
        """A pose in the base frame on one of the topics."""
        if self._due(topic, stamp_ns):
            self._publishers[topic].publish(conversions.pose_message(pose, self._frame, stamp_ns))

    def opening(self, opening: float, stamp_ns: int) -> None:
        """The hand's opening, 0 closed … 1 open."""
        if self._due("gripper/state", stamp_ns):
            self._publishers["gripper/state"].publish(conversions.gripper_message(opening, stamp_ns))

    def _due(self, topic: str, stamp_ns: int) -> bool:
        """Whether to say it: not more often than anybody looks, however fast the robot and its controller are."""
        since = stamp_ns - self._said_ns.get(topic, 0)
        if topic not in self._publishers or 0 <= since < PERIOD_NS:
            return False
        self._said_ns[topic] = stamp_ns
        return True
