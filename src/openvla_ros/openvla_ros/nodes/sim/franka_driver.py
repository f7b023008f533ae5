"""The simulated Panda behind what franka_ros2 (Jazzy) offers: same names, types, quality of service, and reflexes.

A target that jumps trips a reflex, as the real arm does when a commanded pose is not continuous from one millisecond to
the next: the arm stands where it is, and its state falls silent, since an error in control deactivates the hardware
component and all controllers, the state broadcaster too (franka_ros2 from 3.3.0 on). The hand is a machine of its own
and goes on. Names as in robots/franka.py and robots/grippers.py.
"""

from __future__ import annotations

from typing import Any

from geometry_msgs.msg import PoseStamped
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import JointState

from openvla_ros.geometry import Pose
from openvla_ros.nodes.common import conversions
from openvla_ros.nodes.common.lifecycle_node import ManagedNode
from openvla_ros.nodes.common.message_types import load
from openvla_ros.nodes.common.qos import MEASURED, STREAM
from openvla_ros.nodes.sim.driver import SimFace
from openvla_ros.sim.scene import FINGER_TRAVEL, CameraConfig, Scene

BASE = "base"  # the root of the FR3's URDF: what the broadcaster's poses are in
CONVENIENCE = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
# (The example controller's only as in a copy that stands still: as it is, its own motion overwrites every target.)
TARGETS = (
    "target_pose", "cartesian_impedance_example_controller/equilibrium_pose",
    "cartesian_motion_controller/target_frame",
)  # fmt: skip
STILL = 0.004  # [1] of opening: slower than this in a quarter of a second is standing
GRACE_NS = 1_000_000_000  # after a reset of the scene: a bridge that has not heard of it yet is not at fault
PERIOD = 0.02  # [s] between two looks at the hand's goals


class FrankaFace(SimFace):
    """A Panda under franka_ros2."""

    def __init__(self, node: ManagedNode) -> None:
        super().__init__(node)
        self.reflexes = 0
        self._in_reflex = self._recover = False
        self._goal: Any = None  # of the hand, under way: (handle, action's type, opening, time since, opening then)
        self._measured = 1.0
        self._now_ns = self._begun_ns = 0
        self._begun = False  # a target was followed since the scene was reset

    # ---- the executor's thread -------------------------------------------------------------------

    def connect(self) -> None:
        """As franka_robot_state_broadcaster, franka_gripper, the action server and three pose controllers."""
        node, broadcaster = self._node, "franka_robot_state_broadcaster"
        self._state_type: Any = load("franka_msgs/msg/FrankaRobotState")
        self._pose_pub = node.publisher(PoseStamped, f"{broadcaster}/current_pose", CONVENIENCE)
        self._joint_pub = node.publisher(JointState, f"{broadcaster}/measured_joint_states", CONVENIENCE)
        self._state_pub = node.publisher(self._state_type, f"{broadcaster}/robot_state", STREAM)
        self._gripper_pub = node.publisher(JointState, "franka_gripper/joint_states", STREAM)
        for topic in TARGETS:
            node.subscribe(PoseStamped, topic, self._on_target, MEASURED)
        self._serve("franka_gripper/move", "franka_msgs/action/Move", lambda goal: goal.width / 2)
        self._serve("franka_gripper/grasp", "franka_msgs/action/Grasp", lambda goal: goal.width / 2)
        gripper = "franka_gripper/gripper_action"
        self._serve(gripper, "control_msgs/action/GripperCommand", lambda goal: goal.command.position)
        self._recovery: Any = load("franka_msgs/action/ErrorRecovery")
        server = ActionServer(node, self._recovery, "action_server/error_recovery", self._on_recovery)
        node._own(lambda made: made.destroy(), server)
        node.timer(PERIOD, self._look_at_hand)

    def _serve(self, name: str, kind_name: str, finger: Any) -> None:
        kind = load(kind_name)

        def accepted(handle: Any) -> None:
            self._finish(False)  # the hand does one thing at a time
            opening = conversions.number(finger(handle.request), name) / FINGER_TRAVEL
            self._goal = [handle, kind, opening, self._node.now_ns(), self._measured]
            self._opening = min(1.0, max(0.0, opening))

        server = ActionServer(
            self._node, kind, name, lambda handle: None, handle_accepted_callback=accepted,
            goal_callback=lambda goal: GoalResponse.ACCEPT, cancel_callback=lambda handle: CancelResponse.ACCEPT,
        )  # fmt: skip
        self._node._own(lambda made: made.destroy(), server)

    def _look_at_hand(self) -> None:
        """The goal under way ends when the fingers stand still: there, or around something."""
        if self._goal is None:
            return
        now = self._node.now_ns()
        handle, _, _, since, then = self._goal
        if handle.is_cancel_requested:
            self._opening = self._measured  # it stops
            self._finish(False)
        elif abs(self._measured - then) > STILL:
            self._goal[3:] = [now, self._measured]
        elif now - since > 250_000_000 or now < since:
            self._finish(True)

    def _finish(self, success: bool) -> None:
        if self._goal is None:
            return
        (handle, kind, _, _, _), self._goal = self._goal, None
        result = kind.Result()
        if hasattr(result, "success"):
            result.success = success
        else:
            result.reached_goal = success
            result.position = conversions.number(self._measured * FINGER_TRAVEL, "position")

        def end(handle: Any) -> Any:
            if handle.is_cancel_requested:
                handle.canceled()
            elif success:
                handle.succeed()
            else:
                handle.abort()
            return result

        handle.execute(end)

    def _on_recovery(self, handle: Any) -> Any:
        self._recover = True
        handle.succeed()
        return self._recovery.Result()

    # ---- the world's thread ----------------------------------------------------------------------

    def make_scene(self, camera: CameraConfig) -> Scene:
        """The robot and its table, in the frame that an FR3's driver names; the expert's deltas are in it too."""
        scene = super().make_scene(camera)
        scene.base_frame = BASE
        return scene

    def begin(self) -> None:
        """The scene was reset; a reflex stays, as it would."""
        super().begin()
        self._begun_ns, self._begun = self._now_ns, False
        self._measured = self.scene.gripper_opening()

    def obey(self, now_ns: int) -> None:
        """As the plain face, unless a reflex holds the arm. The hand is a machine of its own."""
        self._now_ns = now_ns
        if self._recover:
            # (Stands for all three steps of a real one: the recovery, the hardware component activated again, the
            # controllers too. The last two are the controller_manager's, with which the bridge has nothing to do.)
            self._recover, self._in_reflex = False, False
            self._poses.clear()
            self._target = Pose.of(*self.scene.ee_pose())
            self.scene.set_target(*self.scene.ee_pose())
        if self._in_reflex:
            self._poses.clear()
        super().obey(now_ns)

    def _follow(self, pose: Pose) -> None:
        before = self._target
        super()._follow(pose)
        self._begun = self._begun or self._target is not before

    def _refuse(self, why: str) -> None:
        if not self._begun and self._now_ns - self._begun_ns < GRACE_NS:
            return
        self._in_reflex = True
        self._poses.clear()
        self.reflexes += 1
        self.scene.set_target(*self.scene.ee_pose())
        text = why.replace("refused", "cartesian_reflex:")
        self._node.get_logger().error(f"reflex {self.reflexes}: {text}")

    def publish(self, now_ns: int) -> None:
        """The fingers; pose and joints, best effort, and the whole state, unless a reflex has silenced them."""
        scene = self.scene
        self._measured = scene.gripper_opening()
        finger = self._measured * FINGER_TRAVEL
        names = ("fr3_finger_joint1", "fr3_finger_joint2")
        self._gripper_pub.publish(conversions.joint_message(names, [finger, finger], [], now_ns))
        if self._in_reflex:
            return
        pose = conversions.pose_message(Pose.of(*scene.ee_pose()), scene.base_frame, now_ns)
        self._pose_pub.publish(pose)
        positions, velocities = scene.joint_positions(), scene.joint_velocities()
        joints = conversions.joint_message(scene.joint_names, positions, velocities, now_ns)
        self._joint_pub.publish(joints)
        state = self._state_type(header=conversions.header(now_ns), o_t_ee=pose, measured_joint_state=joints)
        state.robot_mode = self._state_type.ROBOT_MODE_MOVE
        self._state_pub.publish(state)
