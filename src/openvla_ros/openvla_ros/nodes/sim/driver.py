"""Driver emulator: the topics, services and actions by which the simulated robot is commanded and reports its state.

This one has the stack's own topics. Those of `franka_driver` and `xs_sdk_driver` offer what the real robots' drivers
offer, so that their adapters are tested against it. Subscriptions store requests, which the physics thread applies.
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
from openvla_ros.nodes.sim.parameters import SimParameters
from openvla_ros.sim.scene import CameraConfig, Scene, SceneConfig


class DriverEmulator:
    """Pose targets on robot/target_pose, openings on gripper/command; robot/ee_pose, gripper/state, joint_states.

    Attributes:
        scene: The simulated scene; None before `make_scene`.
    """

    def __init__(self, node: ManagedNode[SimParameters]) -> None:
        """Start without requests, for the simulator node `node`."""
        self._node = node
        self.scene: Any = None
        # Requests. Every target is applied in turn: on a busy machine several arrive between two steps of the physics,
        # and a real controller, which has its own computer, follows each. The newest alone would look like a jump.
        self._poses: deque[Pose] = deque(maxlen=200)
        self._opening: float | None = None
        self._target: Pose | None = None  # the newest target that is followed

    # ---- the executor's thread -------------------------------------------------------------------

    def connect(self) -> None:
        """Create publishers, subscriptions, services and actions."""
        self._pose_pub = self._node.publisher(PoseStamped, "robot/ee_pose", MEASURED)
        self._joint_pub = self._node.publisher(JointState, "joint_states", MEASURED)
        self._gripper_pub = self._node.publisher(JointState, "gripper/state", MEASURED)
        self._node.subscribe(PoseStamped, "robot/target_pose", self._on_target, MEASURED)
        self._node.subscribe(Float64, "gripper/command", self._on_gripper, STATE)

    def drop_requests(self) -> None:
        """Drop the requests that were not applied yet."""
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

    # ---- the physics thread ----------------------------------------------------------------------

    def make_scene(self, camera: CameraConfig) -> Scene:
        """Create the robot and its table."""
        self.scene = Scene(SceneConfig(camera=camera))
        return self.scene

    def scene_reset(self) -> None:
        """Start again from the arm's pose after a reset of the scene."""
        self.drop_requests()
        self._target = Pose.of(*self.scene.ee_pose())

    def apply(self, now_ns: int) -> None:
        """Apply the requests, before a step of the physics at `now_ns` [ns]."""
        opening, self._opening = self._opening, None
        if opening is not None:
            self.scene.set_gripper(opening)
        while self._poses:
            self._follow(self._poses.popleft())

    def _follow(self, pose: Pose) -> None:
        far, turn = self._jump(pose)
        limits = self._node.parameters
        if far > limits.max_target_jump or turn > limits.max_target_turn:
            # As the reflex of the real arm: a set-point that jumps is a fault of its sender, and is not followed.
            self._refuse(f"refused a target {far:.3f} m and {turn:.2f} rad away from the one before")
            return
        self._target = pose
        self.scene.set_target(np.array(pose.position), np.array(pose.quaternion))

    def _jump(self, pose: Pose) -> tuple[float, float]:
        """Distance [m] and angle [rad] of a target from the one before or the measured pose, whichever is nearer."""
        assert self._target is not None
        here = Pose.of(*self.scene.ee_pose())
        return min((distance(pose, old), angle(pose, old)) for old in (self._target, here))

    def _refuse(self, reason: str) -> None:
        self._node.get_logger().warning(reason, throttle_duration_sec=1.0)

    def publish(self, now_ns: int) -> None:
        """Publish the robot's state, measured at `now_ns` [ns]."""
        scene = self.scene
        self._gripper_pub.publish(conversions.gripper_message(scene.gripper_opening(), now_ns))
        self._pose_pub.publish(conversions.pose_message(Pose.of(*scene.ee_pose()), scene.base_frame, now_ns))
        if self._joint_pub.get_subscription_count():
            positions, velocities = scene.joint_positions(), scene.joint_velocities()
            self._joint_pub.publish(conversions.joint_message(scene.joint_names, positions, velocities, now_ns))
