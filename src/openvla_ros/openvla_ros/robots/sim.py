"""The simulated Panda: Cartesian pose targets and gripper openings, as a Franka's pose controller takes them."""

from __future__ import annotations

from openvla_ros.geometry import Pose
from openvla_ros.robots.adapter import Opening, PoseTarget, RobotAdapter, Sent


class SimAdapter(RobotAdapter):
    """Targets on robot/target_pose (geometry_msgs/PoseStamped), openings on gripper/command (std_msgs/Float64)."""

    topics = (("robot/target_pose", PoseTarget), ("gripper/command", Opening))

    def __init__(self, base_frame: str) -> None:
        super().__init__()
        self._base_frame = base_frame

    def target(self, pose: Pose, stamp_ns: int) -> Sent:
        """The pose itself."""
        return (("robot/target_pose", PoseTarget(pose, self._base_frame, stamp_ns)),)

    def gripper(self, opening: float) -> Sent:
        """The opening itself."""
        return (("gripper/command", Opening(opening)),)
