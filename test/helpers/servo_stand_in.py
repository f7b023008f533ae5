"""A stand-in for MoveIt Servo on a WidowX 250s, as config/robots/widowx_servo.yaml has it: `python servo_stand_in.py`.

MoveIt is on no Python registry. Of its interface this has what the bridge uses, as in moveit2's branch jazzy: pose
targets are followed from the measured joints on, within the joints' speed, at 100 Hz; nothing is sent while it is
paused, before it was switched to poses, or when the newest target is older than 0.1 s. Its inverse kinematics are
the bridge's own, so what it shows is the way of the messages, not MoveIt's solutions. Its clock is the node's: with
`--ros-args -p use_sim_time:=true` the simulator's, as the bridge's.
"""

from __future__ import annotations

import contextlib

import rclpy
from geometry_msgs.msg import PoseStamped
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from openvla_ros.nodes.common.conversions import read_joints, read_pose
from openvla_ros.nodes.common.message_types import load
from openvla_ros.nodes.common.qos import SENSOR
from openvla_ros.robots.arms import WIDOWX_250S
from openvla_ros.robots.factory import joint_limiter
from openvla_ros.robots.kinematics import Kinematics
from openvla_ros.robots.servo import TYPES

PERIOD = 0.01  # [s] publish_period
TIMEOUT_NS = 100_000_000  # incoming_command_timeout
SPEED = 1.5  # [rad/s]


class ServoStandIn(Node):
    """servo_node."""

    def __init__(self) -> None:
        super().__init__("servo_node")
        self._kinematics, self._limit = Kinematics(WIDOWX_250S), joint_limiter((SPEED,) * len(WIDOWX_250S.joints))
        self._type, self._paused = 0, False  # (Servo expects joint jogs at first)
        self._target = self._measured = self._commanded = None
        self._status = load("moveit_msgs/msg/ServoStatus")
        self._trajectory_pub = self.create_publisher(JointTrajectory, "~/joint_trajectory", 10)
        self._status_pub = self.create_publisher(self._status, "~/status", 10)
        self.create_subscription(PoseStamped, "~/pose_target_cmds", self._on_target, 10)
        self.create_subscription(JointState, "joint_states", self._on_joints, SENSOR)
        self.create_service(load("moveit_msgs/srv/ServoCommandType"), "~/switch_command_type", self._on_switch)
        self.create_service(load("std_srvs/srv/SetBool"), "~/pause_servo", self._on_pause)
        self.create_timer(PERIOD, self._step)

    def _on_target(self, message: PoseStamped) -> None:
        if message.header.frame_id != "wx250s/base_link":
            self.get_logger().error(f"no transform from '{message.header.frame_id}'")
            return
        self._target = read_pose(message)

    def _on_joints(self, message: JointState) -> None:
        names, positions, _ = read_joints(message)
        at = dict(zip(names, positions, strict=True))
        self._measured = tuple(at[name] for name in WIDOWX_250S.names)

    def _on_switch(self, request, response):
        self._type, response.success = request.command_type, True
        return response

    def _on_pause(self, request, response):
        print(f"pause_servo {request.data}", flush=True)
        self._paused, self._commanded, response.success = request.data, None, True
        return response

    def _step(self) -> None:
        if self._paused or self._measured is None:
            return
        now, code = self.get_clock().now().nanoseconds, 0
        if self._target is None or self._type != TYPES["pose"] or now - self._target[1] > TIMEOUT_NS:
            self._commanded = None  # halted: the next target starts from the measured joints
        else:
            before = self._commanded or self._measured
            wanted = self._kinematics.solve(self._target[0], before).positions
            self._commanded, cut = self._limit(wanted, before, PERIOD)
            code = self._status.JOINT_BOUND if any(name.startswith("joint_range") for name in cut) else 0
            # (A rolling window, as Servo's: the last position is the newest, slightly ahead in time.)
            points = [JointTrajectoryPoint(positions=[float(v) for v in q]) for q in (before, self._commanded)]
            self._trajectory_pub.publish(JointTrajectory(joint_names=list(WIDOWX_250S.names), points=points))
        self._status_pub.publish(self._status(code=code))


if __name__ == "__main__":
    rclpy.init()
    with contextlib.suppress(KeyboardInterrupt, ExternalShutdownException):
        rclpy.spin(ServoStandIn())
