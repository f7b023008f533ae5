"""The adapter of a robot from its parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from openvla_ros.robots.adapter import RobotAdapter
from openvla_ros.robots.arms import WIDOWX_250S
from openvla_ros.robots.franka import FrankaAdapter, FrankaConfig
from openvla_ros.robots.generic import GenericAdapter, GenericConfig
from openvla_ros.robots.grippers import HandConfig
from openvla_ros.robots.sim import SimAdapter
from openvla_ros.robots.widowx import WidowXAdapter, WidowXConfig, WidowXServoAdapter
from openvla_ros.safety.joint_limits import JointLimits, limit_joints

Get = Callable[[str], Any]


def make_adapter(get: Get) -> RobotAdapter:
    """The adapter that the parameters describe; ValueError in one line when they contradict each other."""
    robot, period = get("robot"), 1.0 / get("restream_rate")
    if robot == "sim":
        return SimAdapter(get("base_frame"))
    if robot == "widowx":
        speeds = tuple(min(joint.speed, get("widowx.joint_speed")) for joint in WIDOWX_250S.joints)
        names = ("prefix", "profile_time", "profile_acceleration", "pwm", "hold_pwm")
        config = WidowXConfig(**{name: get(f"widowx.{name}") for name in names})
        if get("widowx.ik") == "own":
            return WidowXAdapter(config, _limit(speeds), period)
        if not get("servo.node"):
            raise ValueError("widowx.ik is servo, but servo.node is empty: it names MoveIt Servo's node, servo_node")
        return WidowXServoAdapter(config, _limit(speeds), period, generic_config(get), get("widowx.trajectory_topic"))
    generic = generic_config(get)
    if robot == "generic":
        return GenericAdapter(generic)
    return FrankaAdapter(generic, FrankaConfig(get("franka.robot_state_topic"), get("franka.recovery_action")))


def generic_config(get: Get) -> GenericConfig:
    """What every arm with a pose or twist controller needs."""
    hand = {name: get(f"hand.{name}") for name in HandConfig.__dataclass_fields__ if name != "joints"}
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
        hand=HandConfig(**hand, joints=tuple(name for name in get("hand.joints") if name)),
    )


def _limit(speeds: tuple[float, ...]) -> Callable[[Sequence[float], Sequence[float], float], Any]:
    joints = WIDOWX_250S.joints
    low, high = tuple(joint.low for joint in joints), tuple(joint.high for joint in joints)
    return partial(limit_joints, limits=JointLimits(WIDOWX_250S.names, low, high, speeds))
