"""Emulator of franka_ros2 (Jazzy) around the simulated Panda: same names, types, quality of service and reflexes.

A target that jumps triggers a reflex, as in the real arm when a commanded pose is not continuous from one millisecond
to the next: the arm stops, and its state is no longer published, since an error in control deactivates the hardware
component and all controllers, the state broadcaster too (franka_ros2 from 3.3.0 on). The gripper is a separate device
and continues. Names as in robots/franka.py and robots/grippers.py.
"""

from __future__ import annotations

from typing import Any

from geometry_msgs.msg import PoseStamped
from rclpy.action import CancelResponse, GoalResponse
from sensor_msgs.msg import JointState

from openvla_ros.geometry import Pose
from openvla_ros.nodes.common import conversions
from openvla_ros.nodes.common.lifecycle_node import ManagedNode
from openvla_ros.nodes.common.message_types import load
from openvla_ros.nodes.common.qos import MEASURED, NEWEST, STREAM
from openvla_ros.nodes.sim.driver import DriverEmulator
from openvla_ros.nodes.sim.parameters import SimParameters
from openvla_ros.sim.scene import FINGER_TRAVEL, CameraConfig, Scene

BASE = "base"  # the root of the FR3's URDF: what the broadcaster's poses are in
# The example controller's only in a copy without motion: the original's own motion overwrites every target.
TARGETS = (
    "target_pose", "cartesian_impedance_example_controller/equilibrium_pose",
    "cartesian_motion_controller/target_frame",
)  # fmt: skip
STILL = 0.004  # [1] a change of the opening below this within STILL_NS counts as standing still
STILL_NS = 250_000_000
GRACE_NS = 1_000_000_000  # after a reset of the scene: a bridge that does not know of it yet is not at fault
PERIOD = 0.02  # [s] between two checks of the gripper's goal


class FrankaDriverEmulator(DriverEmulator):
    """A Panda under franka_ros2.

    Attributes:
        reflexes: Number of reflexes so far.
    """

    def __init__(self, node: ManagedNode[SimParameters]) -> None:
        """Start without requests, for the simulator node `node`."""
        super().__init__(node)
        self.reflexes = 0
        self._in_reflex = self._recover = False
        # The gripper's goal: handle, type of the action, since when [ns] the opening changes by less than STILL, and
        # the opening then.
        self._goal: Any = None
        self._measured = 1.0
        self._now_ns = self._begun_ns = 0
        self._begun = False  # a target was followed since the scene was reset

    # ---- the executor's thread -------------------------------------------------------------------

    def connect(self) -> None:
        """Create what franka_robot_state_broadcaster, franka_gripper, action_server and three controllers offer."""
        node, broadcaster = self._node, "franka_robot_state_broadcaster"
        self._state_type: Any = load("franka_msgs/msg/FrankaRobotState")
        self._pose_pub = node.publisher(PoseStamped, f"{broadcaster}/current_pose", NEWEST)
        self._joint_pub = node.publisher(JointState, f"{broadcaster}/measured_joint_states", NEWEST)
        self._state_pub = node.publisher(self._state_type, f"{broadcaster}/robot_state", STREAM)
        self._gripper_pub = node.publisher(JointState, "franka_gripper/joint_states", STREAM)
        for topic in TARGETS:
            node.subscribe(PoseStamped, topic, self._on_target, MEASURED)
        self._serve("franka_gripper/move", "franka_msgs/action/Move", lambda goal: goal.width / 2)
        self._serve("franka_gripper/grasp", "franka_msgs/action/Grasp", lambda goal: goal.width / 2)
        gripper = "franka_gripper/gripper_action"
        self._serve(gripper, "control_msgs/action/GripperCommand", lambda goal: goal.command.position)
        self._recovery: Any = load("franka_msgs/action/ErrorRecovery")
        node.serve_action(self._recovery, "action_server/error_recovery", self._on_recovery)
        node.timer(PERIOD, self._check_gripper)

    def _serve(self, name: str, kind_name: str, finger: Any) -> None:
        kind = load(kind_name)

        def accepted(handle: Any) -> None:
            self._finish(False)  # the gripper executes one goal at a time
            opening = conversions.number(finger(handle.request), name) / FINGER_TRAVEL
            self._goal = [handle, kind, self._node.now_ns(), self._measured]
            self._opening = min(1.0, max(0.0, opening))

        self._node.serve_action(
            kind,
            name,
            lambda handle: None,
            handle_accepted_callback=accepted,
            goal_callback=lambda goal: GoalResponse.ACCEPT,
            cancel_callback=lambda handle: CancelResponse.ACCEPT,
        )

    def _check_gripper(self) -> None:
        """End the goal when the fingers stand still: at the goal, or around an object."""
        if self._goal is None:
            return
        now = self._node.now_ns()
        handle, _, since, then = self._goal
        if handle.is_cancel_requested:
            self._opening = self._measured  # stop
            self._finish(False)
        elif abs(self._measured - then) > STILL:
            self._goal[2:] = [now, self._measured]
        elif now - since > STILL_NS or now < since:
            self._finish(True)

    def _finish(self, success: bool) -> None:
        if self._goal is None:
            return
        (handle, kind, _, _), self._goal = self._goal, None
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

    # ---- the physics thread ----------------------------------------------------------------------

    def make_scene(self, camera: CameraConfig) -> Scene:
        """Create the robot and its table, in the base frame of an FR3's driver, which is also the expert's."""
        scene = super().make_scene(camera)
        scene.base_frame = BASE
        return scene

    def scene_reset(self) -> None:
        """Start again after a reset of the scene; a reflex persists."""
        super().scene_reset()
        self._begun_ns, self._begun = self._now_ns, False
        self._measured = self.scene.gripper_opening()

    def apply(self, now_ns: int) -> None:
        """Apply the requests, before a step of the physics at `now_ns` [ns]; in a reflex only the gripper's."""
        self._now_ns = now_ns
        if self._recover:
            # Stands for all three steps of a real recovery: the action, and the activation of hardware component and
            # controllers, which are the controller_manager's business and not the bridge's.
            self._recover, self._in_reflex = False, False
            self._poses.clear()
            self._target = Pose.of(*self.scene.ee_pose())
            self.scene.set_target(*self.scene.ee_pose())
        if self._in_reflex:
            self._poses.clear()
        super().apply(now_ns)

    def _follow(self, pose: Pose) -> None:
        before = self._target
        super()._follow(pose)
        self._begun = self._begun or self._target is not before

    def _refuse(self, reason: str) -> None:
        if not self._begun and self._now_ns - self._begun_ns < GRACE_NS:
            return
        self._in_reflex = True
        self._poses.clear()
        self.reflexes += 1
        self.scene.set_target(*self.scene.ee_pose())
        text = reason.replace("refused", "cartesian_reflex:")
        self._node.get_logger().error(f"reflex {self.reflexes}: {text}")

    def publish(self, now_ns: int) -> None:
        """Publish the state, measured at `now_ns` [ns]: the fingers, and the arm's unless it is in a reflex."""
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
