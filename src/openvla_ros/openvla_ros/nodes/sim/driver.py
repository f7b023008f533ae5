"""The simulator's face: by which topics, services and actions its robot is commanded, and says how it is.

`sim` is the plain one, with the stack's own topics. `franka` and `widowx` look like those robots' drivers, so that
their bridges are tested against what they will meet. Subscriptions leave requests; the world's thread takes them up.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
from geometry_msgs.msg import PoseStamped
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64

from openvla_ros.geometry import Pose, angle, distance
from openvla_ros.nodes.common import conversions
from openvla_ros.nodes.common.lifecycle_node import ManagedNode
from openvla_ros.nodes.common.qos import MEASURED, STATE
from openvla_ros.sim.scene import CameraConfig, Scene, SceneConfig


class SimFace:
    """Pose targets on robot/target_pose, openings on gripper/command; robot/ee_pose, gripper/state, joint_states."""

    def __init__(self, node: ManagedNode) -> None:
        self._node = node
        self.scene: Any = None
        # Requests. Every target in its turn: on a busy machine several come between two slices of physics, and a real
        # controller, which has its own computer, would have followed each. The newest alone would look like a jump.
        self._poses: deque[Pose] = deque(maxlen=200)
        self._opening: float | None = None
        self._target: Pose | None = None  # what is followed

    # ---- the executor's thread -------------------------------------------------------------------

    def connect(self) -> None:
        """Make publishers, subscriptions, services and actions."""
        self._pose_pub = self._node.publisher(PoseStamped, "robot/ee_pose", MEASURED)
        self._joint_pub = self._node.publisher(JointState, "joint_states", MEASURED)
        self._gripper_pub = self._node.publisher(JointState, "gripper/state", MEASURED)
        self._node.subscribe(PoseStamped, "robot/target_pose", self._on_target, MEASURED)
        self._node.subscribe(Float64, "gripper/command", self._on_gripper, STATE)

    def forget(self) -> None:
        """Forget what was asked for and not done yet."""
        self._poses.clear()
        self._opening = None

    def _on_target(self, message: PoseStamped) -> None:
        try:
            self._poses.append(conversions.read_pose(message)[0])
        except ValueError as error:
            self._node.get_logger().error(f"pose target: {error}", throttle_duration_sec=1.0)

    def _on_gripper(self, message: Float64) -> None:
        try:
            self._opening = conversions.number(message.data, "gripper/command")
        except ValueError as error:
            self._node.get_logger().error(str(error), throttle_duration_sec=1.0)

    # ---- the world's thread ----------------------------------------------------------------------

    def make_scene(self, camera: CameraConfig) -> Scene:
        """The robot and its table."""
        self.scene = Scene(SceneConfig(camera=camera))
        return self.scene

    def begin(self) -> None:
        """The scene was reset: the arm stands where it is."""
        self.forget()
        self._target = Pose.of(*self.scene.ee_pose())

    def obey(self, now_ns: int) -> None:
        """Take up what was asked for, before a slice of physics."""
        opening, self._opening = self._opening, None
        if opening is not None:
            self.scene.set_gripper(opening)
        while self._poses:
            self._follow(self._poses.popleft())

    def _follow(self, pose: Pose) -> None:
        far, turn = self._jump(pose)
        if far > self._node.value("max_target_jump") or turn > self._node.value("max_target_turn"):
            # As the real arm's reflex: a set-point that jumps is a fault of whoever sent it, and is not followed.
            self._refuse(f"refused a target {far:.3f} m and {turn:.2f} rad away from the one before")
            return
        self._target = pose
        self.scene.set_target(np.array(pose.position), np.array(pose.quaternion))

    def _jump(self, pose: Pose) -> tuple[float, float]:
        """How far a target is from the one before, or from the measured pose, at which a new stream may begin."""
        assert self._target is not None
        here = Pose.of(*self.scene.ee_pose())
        return min((distance(pose, old), angle(pose, old)) for old in (self._target, here))

    def _refuse(self, why: str) -> None:
        self._node.get_logger().warning(why, throttle_duration_sec=1.0)

    def publish(self, now_ns: int) -> None:
        """Say how the robot is."""
        scene = self.scene
        self._gripper_pub.publish(conversions.gripper_message(scene.gripper_opening(), now_ns))
        self._pose_pub.publish(conversions.pose_message(Pose.of(*scene.ee_pose()), scene.base_frame, now_ns))
        if self._joint_pub.get_subscription_count():
            positions, velocities = scene.joint_positions(), scene.joint_velocities()
            self._joint_pub.publish(conversions.joint_message(scene.joint_names, positions, velocities, now_ns))
