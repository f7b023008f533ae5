"""Publishes pose, gripper and target of any robot on the stack's own topics, whatever names its driver uses."""

from __future__ import annotations

from collections.abc import Sequence

from geometry_msgs.msg import PoseStamped
from sensor_msgs.msg import JointState

from openvla_ros.geometry import Pose
from openvla_ros.nodes.bridge.parameters import BridgeParameters
from openvla_ros.nodes.common import conversions
from openvla_ros.nodes.common.lifecycle_node import ManagedNode
from openvla_ros.nodes.common.qos import MEASURED

PERIOD_NS = 9_000_000  # [ns] between two messages on a topic: at most 100 Hz, and every message of a robot of that rate


class StatePublisher:
    """Publishes robot/ee_pose, robot/target_pose and gripper/state, which recorder, teleoperation and live view use.

    A topic that the robot's driver or the adapter publishes itself is left to them.
    """

    def __init__(self, node: ManagedNode[BridgeParameters], used: Sequence[str]) -> None:
        """Create the publishers.

        Args:
            node: The bridge.
            used: Topics that the robot's driver and the adapter use.
        """
        own = {node.resolve_topic_name(topic) for topic in used}
        kinds = {
            "robot/ee_pose": PoseStamped, "robot/target_pose": PoseStamped,
            "gripper/state": JointState,
        }  # fmt: skip
        self._frame = node.parameters.base_frame
        self._publishers = {
            topic: node.publisher(kind, topic, MEASURED)
            for topic, kind in kinds.items() if node.resolve_topic_name(topic) not in own
        }  # fmt: skip
        self._published_ns: dict[str, int] = {}

    def publish_pose(self, topic: str, pose: Pose, stamp_ns: int) -> None:
        """Publish a pose in the base frame on one of the topics."""
        if self._due(topic, stamp_ns):
            self._publishers[topic].publish(conversions.pose_message(pose, self._frame, stamp_ns))

    def publish_opening(self, opening: float, stamp_ns: int) -> None:
        """Publish the gripper's opening, 0 closed … 1 open."""
        if self._due("gripper/state", stamp_ns):
            self._publishers["gripper/state"].publish(conversions.gripper_message(opening, stamp_ns))

    def _due(self, topic: str, stamp_ns: int) -> bool:
        """Whether to publish: at a limited rate, however fast the robot and its controller are."""
        since = stamp_ns - self._published_ns.get(topic, 0)
        if topic not in self._publishers or 0 <= since < PERIOD_NS:
            return False
        self._published_ns[topic] = stamp_ns
        return True
