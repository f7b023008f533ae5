"""MoveIt Servo (Jazzy): switched to a kind of command and unpaused at activate, paused at deactivate.

Services and topics of moveit/moveit2, branch jazzy, moveit_ros/moveit_servo/src/servo_node.cpp and
config/servo_parameters.yaml: ~/switch_command_type (moveit_msgs/srv/ServoCommandType: JOINT_JOG 0, TWIST 1, POSE 2),
~/pause_servo (std_srvs/srv/SetBool, true pauses), ~/delta_twist_cmds (TwistStamped), ~/pose_target_cmds (PoseStamped);
commands older than `incoming_command_timeout` (0.1 s) halt it smoothly. Both services report success if the state is
the requested one, also if it was so before. A paused Servo sends nothing: paused in motion it leaves a velocity
controller at its last velocity, so it is paused only after it has halted. ~/status (moveit_msgs/msg/ServoStatus)
reports what slows it down or halts it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from openvla_ros.geometry import Pose, Vector, conjugate, log, multiply
from openvla_ros.robots.adapter import Call, TwistTarget

TYPES = {"twist": 1, "pose": 2}
# Its status codes other than NO_WARNING (0), by what cut the target. DECELERATE_FOR_…: 1, 3, 4; HALT_FOR_…: 2, 5.
CUTS = {
    -1: "servo_invalid", 1: "servo_near_singularity", 2: "servo_singularity", 3: "servo_near_singularity",
    4: "servo_near_collision", 5: "servo_collision", 6: "servo_joint_bound",
}  # fmt: skip
SETTLING = 0.25  # [s] after the last command: by then that has timed out, and Servo has halted
_REMEDY = "is MoveIt Servo running, and is `servo.node` its name?"


def begin(node: str, command: str) -> Sequence[Call]:
    """Calls that make the Servo node `node` follow commands of a kind, `twist` or `pose`."""
    return (
        Call(f"{node}/switch_command_type", "moveit_msgs/srv/ServoCommandType", {"command_type": TYPES[command]},
             {"success": True}, _REMEDY),
        Call(f"{node}/pause_servo", "std_srvs/srv/SetBool", {"data": False}, {"success": True}, _REMEDY),
    )  # fmt: skip


def end(node: str) -> Sequence[Call]:
    """Calls that pause the Servo node `node`."""
    return (Call(f"{node}/pause_servo", "std_srvs/srv/SetBool", {"data": True}, {}, _REMEDY),)


class Twister:
    """Velocities that follow a stream of target poses: the target's velocity, plus a share of the following error."""

    def __init__(self, gain: float, speed: float, turn: float) -> None:
        """Begin without a target.

        Args:
            gain: Velocity per following error [1/s].
            speed: Largest linear velocity [m/s].
            turn: Largest angular velocity [rad/s].
        """
        self._gain, self._speed, self._turn = gain, speed, turn
        self.last: tuple[Pose, int] | None = None  # the newest target, and its time
        self.measured: Pose | None = None

    def follow(self, pose: Pose, frame: str, stamp_ns: int) -> TwistTarget:
        """The velocity from `stamp_ns` [ns] on, if the target is at `pose` then."""
        linear, angular = (0.0, 0.0, 0.0), (0.0, 0.0, 0.0)
        if self.last is not None and stamp_ns > self.last[1]:
            linear, angular = _between(self.last[0], pose, 1e9 / (stamp_ns - self.last[1]))
        self.last = (pose, stamp_ns)
        if self.measured is not None:
            lag = _between(self.measured, pose, self._gain)
            linear, angular = _sum(linear, lag[0]), _sum(angular, lag[1])
        return TwistTarget(_limited(linear, self._speed), _limited(angular, self._turn), frame, stamp_ns)

    def rest(self, frame: str, stamp_ns: int) -> TwistTarget:
        """Zero velocity; the next target begins a new stream."""
        self.last = None
        return TwistTarget((0.0, 0.0, 0.0), (0.0, 0.0, 0.0), frame, stamp_ns)


def _between(a: Pose, b: Pose, factor: float) -> tuple[Vector, Vector]:
    move, turn = zip(a.position, b.position, strict=True), log(multiply(b.quaternion, conjugate(a.quaternion)))
    x, y, z = (factor * (v - u) for u, v in move)
    return (x, y, z), (factor * turn[0], factor * turn[1], factor * turn[2])


def _sum(a: Vector, b: Vector) -> Vector:
    return (a[0] + b[0], a[1] + b[1], a[2] + b[2])


def _limited(v: Vector, largest: float) -> Vector:
    length = math.hypot(*v)
    k = min(1.0, largest / length) if length > 0.0 else 1.0
    return (k * v[0], k * v[1], k * v[2])
