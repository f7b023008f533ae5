"""Makes the adapter of a robot from the bridge's parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from openvla_ros.robots.adapter import RobotAdapter
from openvla_ros.robots.arms import WIDOWX_250S
from openvla_ros.robots.franka import FrankaAdapter, FrankaConfig
from openvla_ros.robots.generic import GenericAdapter, GenericConfig
from openvla_ros.robots.grippers import GripperConfig
from openvla_ros.robots.parameters import RobotParameters
from openvla_ros.robots.sim import SimAdapter
from openvla_ros.robots.widowx import WidowXAdapter, WidowXConfig, WidowXServoAdapter
from openvla_ros.safety.joint_limits import JointLimits, limit_joints


def make_adapter(
    robot: str, parameters: RobotParameters, *, base_frame: str, period: float, speed: float, turn: float
) -> RobotAdapter:
    """The adapter of a robot.

    Args:
        robot: One of `ADAPTERS`.
        parameters: Parameters of the robot's interface.
        base_frame: Frame of the measured pose and of the targets.
        period: Time between two targets [s].
        speed: Highest speed of the target [m/s].
        turn: Highest angular speed of the target [rad/s].

    Returns:
        The adapter.

    Raises:
        ValueError: The parameters contradict each other.
    """
    if robot == "sim":
        return SimAdapter(base_frame)
    hand = parameters.hand
    generic = GenericConfig(
        base_frame=base_frame,
        command=parameters.command.kind,
        topic=parameters.command.topic,
        pose_topic=parameters.state.pose_topic,
        servo_node=parameters.servo.node,
        servo_gain=parameters.servo.gain,
        speed=speed,
        turn=turn,
        period=period,
        gripper=GripperConfig(**asdict(hand) | {"joints": tuple(name for name in hand.joints if name)}),
    )
    if robot == "widowx":
        return _widowx(parameters, generic)
    if robot == "generic":
        return GenericAdapter(generic)
    return FrankaAdapter(generic, FrankaConfig(**asdict(parameters.franka)))


def _widowx(parameters: RobotParameters, generic: GenericConfig) -> RobotAdapter:
    given = parameters.widowx
    config = WidowXConfig(
        prefix=given.prefix,
        profile_time=given.profile_time,
        profile_acceleration=given.profile_acceleration,
        pwm=given.pwm,
        hold_pwm=given.hold_pwm,
    )
    limit = joint_limiter(tuple(min(joint.speed, given.joint_speed) for joint in WIDOWX_250S.joints))
    if given.ik == "own":
        return WidowXAdapter(config, limit, generic.period)
    if not parameters.servo.node:
        raise ValueError(
            "widowx.ik is servo, but servo.node is empty: set it to the name of MoveIt Servo's node, servo_node"
        )
    return WidowXServoAdapter(config, limit, generic.period, generic, given.trajectory_topic)


def joint_limiter(speeds: tuple[float, ...]) -> Callable[[Sequence[float], Sequence[float], float], Any]:
    """The limits of a WidowX 250s's joints, with their speeds [rad/s], as a function of one step (`limit_joints`)."""
    joints = WIDOWX_250S.joints
    low, high = tuple(joint.low for joint in joints), tuple(joint.high for joint in joints)
    return partial(limit_joints, limits=JointLimits(WIDOWX_250S.names, low, high, speeds))
