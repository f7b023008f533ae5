"""Makes the adapter of a robot from the bridge's parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from openvla_ros.robots.adapter import RobotAdapter
from openvla_ros.robots.arms import WIDOWX_250S
from openvla_ros.robots.franka import FrankaAdapter, FrankaConfig
from openvla_ros.robots.generic import GenericAdapter, GenericConfig
from openvla_ros.robots.grippers import GripperConfig
from openvla_ros.robots.sim import SimAdapter
from openvla_ros.robots.widowx import WidowXAdapter, WidowXConfig, WidowXServoAdapter
from openvla_ros.safety.joint_limits import JointLimits, limit_joints

Get = Callable[[str], Any]


def make_adapter(get: Get) -> RobotAdapter:
    """Make the adapter that the parameters describe.

    Args:
        get: Value of a parameter by name.

    Returns:
        The adapter.

    Raises:
        ValueError: The parameters contradict each other.
    """
    robot, period = get("robot"), 1.0 / get("restream_rate")
    if robot == "sim":
        return SimAdapter(get("base_frame"))
    if robot == "widowx":
        speeds = tuple(min(joint.speed, get("widowx.joint_speed")) for joint in WIDOWX_250S.joints)
        names = ("prefix", "profile_time", "profile_acceleration", "pwm", "hold_pwm")
        config = WidowXConfig(**{name: get(f"widowx.{name}") for name in names})
        if get("widowx.ik") == "own":
            return WidowXAdapter(config, joint_limiter(speeds), period)
        if not get("servo.node"):
            raise ValueError(
                "widowx.ik is servo, but servo.node is empty: set it to the name of MoveIt Servo's node, servo_node"
            )
        return WidowXServoAdapter(
            config, joint_limiter(speeds), period, generic_config(get), get("widowx.trajectory_topic")
        )
    generic = generic_config(get)
    if robot == "generic":
        return GenericAdapter(generic)
    return FrankaAdapter(generic, FrankaConfig(get("franka.robot_state_topic"), get("franka.recovery_action")))


def generic_config(get: Get) -> GenericConfig:
    """The configuration of an arm with a pose or twist controller, from the parameters."""
    gripper = {name: get(f"hand.{name}") for name in GripperConfig.__dataclass_fields__ if name != "joints"}
    return GenericConfig(
        base_frame=get("base_frame"),
        command=get("command.kind"),
        topic=get("command.topic"),
        pose_topic=get("state.pose_topic"),
        servo_node=get("servo.node"),
        servo_gain=get("servo.gain"),
        speed=get("limit.speed"),
        turn=get("limit.turn"),
        period=1.0 / get("restream_rate"),
        gripper=GripperConfig(**gripper, joints=tuple(name for name in get("hand.joints") if name)),
    )


def joint_limiter(speeds: tuple[float, ...]) -> Callable[[Sequence[float], Sequence[float], float], Any]:
    """The limits of a WidowX 250s's joints, with their speeds [rad/s], as a function of one step (`limit_joints`)."""
    joints = WIDOWX_250S.joints
    low, high = tuple(joint.low for joint in joints), tuple(joint.high for joint in joints)
    return partial(limit_joints, limits=JointLimits(WIDOWX_250S.names, low, high, speeds))
