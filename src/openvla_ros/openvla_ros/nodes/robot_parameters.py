"""The bridge's parameters about the robot's own face, and the adapter that is made from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from openvla_ros.arms import WIDOWX_250S
from openvla_ros.parameters import Parameter as P
from openvla_ros.robots.adapter import RobotAdapter
from openvla_ros.robots.franka import FrankaAdapter, FrankaConfig
from openvla_ros.robots.generic import GenericAdapter, GenericConfig
from openvla_ros.robots.hands import KINDS, HandConfig
from openvla_ros.robots.sim import SimAdapter
from openvla_ros.robots.widowx import WidowXAdapter, WidowXConfig, WidowXServoAdapter
from openvla_ros.safety.joint_limits import JointLimits, limit_joints

Get = Callable[[str], Any]
_HAND, _FRANKA, _WIDOWX = HandConfig(), FrankaConfig(), WidowXConfig()

ROBOT_PARAMETERS = (
    # franka, generic
    P("command.kind", "pose", "What the arm's controller takes: pose (PoseStamped) or twist (TwistStamped)",
      choices=("pose", "twist")),
    P("command.topic", "target_pose", "Topic of its targets: target_pose (crisp_controllers), "
      "<controller>/target_frame (FZI), servo_node/pose_target_cmds or delta_twist_cmds (MoveIt), "
      "cartesian_impedance_example_controller/equilibrium_pose (a copy of franka_ros2's example that stands still)"),
    P("state.pose_topic", "robot/ee_pose", "Topic of the measured pose (PoseStamped) of the frame that the controller "
      "pulls to its targets"),
    P("servo.node", "", "Name of MoveIt Servo's node, to be switched and un-paused at activate; '' = none"),
    P("servo.gain", 2.0, "Twists make up for what the arm lags behind at this rate", "1/s", 0.0, 20.0),
    P("hand.kind", _HAND.kind, "topic: std_msgs/Float64; franka: actions move and grasp of franka_msgs; command: "
      "action GripperCommand of control_msgs, parallel: action ParallelGripperCommand of it; none", choices=KINDS),
    P("hand.name", _HAND.name, "Its topic, action (command, parallel), or the node whose actions they are (franka)"),
    P("hand.state_topic", _HAND.state_topic, "Topic of the hand's joints (JointState)"),
    P("hand.joints", [""], "Joints whose positions add up to the opening; '' = the message's first"),
    P("hand.closed", _HAND.closed, "What they add up to when closed", "m", -1.0, 1.0),
    P("hand.opened", _HAND.opened, "What they add up to when open", "m", -1.0, 1.0),
    P("hand.speed", _HAND.speed, "Speed of the hand", "m/s", 0.001, 1.0),
    P("hand.force", _HAND.force, "Force of a grasp", "N", 0.0, 200.0),
    P("hand.timeout", _HAND.timeout, "A goal of the hand that takes longer is cancelled", "s", 0.1, 60.0),
    P("franka.robot_state_topic", _FRANKA.robot_state_topic, "Topic of franka_msgs/FrankaRobotState; '' = a reflex "
      "is only noticed by the arm that stands"),
    P("franka.recovery_action", _FRANKA.recovery_action, "Action of bridge_node/recover_robot"),
    # widowx
    P("widowx.ik", "own", "own: the bridge's inverse kinematics; servo: MoveIt Servo's (servo.node, command.kind and "
      "command.topic)", choices=("own", "servo")),
    P("widowx.trajectory_topic", "servo_node/joint_trajectory", "Servo's command_out_topic (JointTrajectory), where "
      "widowx.ik is servo"),
    P("widowx.prefix", _WIDOWX.prefix, "Namespace of xs_sdk, such as wx250s/"),
    P("widowx.profile_time", _WIDOWX.profile_time, "Time profile of the arm's motors: a move takes so long",
      "s", 0.02, 5.0),
    P("widowx.profile_acceleration", _WIDOWX.profile_acceleration, "Part of it to speed up", "s", 0.0, 2.0),
    P("widowx.pwm", _WIDOWX.pwm, "PWM of the gripper while it moves; 885 is all", "", 50.0, 500.0),
    P("widowx.hold_pwm", _WIDOWX.hold_pwm, "PWM of the gripper while it holds something", "", 0.0, 300.0),
    P("widowx.joint_speed", 1.5, "Highest speed of a joint's set-point", "rad/s", 0.05, 3.14),
    P("call_timeout", 5.0, "Longest wait for an answer of the robot's services", "s", 0.1, 60.0),
)  # fmt: skip


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
