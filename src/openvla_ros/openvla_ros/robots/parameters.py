"""Parameters of the bridge node about the robot's interface."""

from __future__ import annotations

from dataclasses import dataclass, field

from openvla_ros.parameters import parameter
from openvla_ros.robots.franka import FrankaConfig
from openvla_ros.robots.grippers import KINDS, GripperConfig
from openvla_ros.robots.widowx import WidowXConfig


@dataclass(frozen=True)
class CommandParameters:
    """What the arm's controller takes: `command.*`."""

    kind: str = parameter(
        "pose", "What the arm's controller takes: pose (PoseStamped) or twist (TwistStamped)", choices=("pose", "twist")
    )
    topic: str = parameter(
        "target_pose",
        "Topic of its targets: target_pose (crisp_controllers), "
        "<controller>/target_frame (FZI), servo_node/pose_target_cmds or delta_twist_cmds (MoveIt), "
        "cartesian_impedance_example_controller/equilibrium_pose (a copy of franka_ros2's example without its motion)",
    )


@dataclass(frozen=True)
class StateParameters:
    """The arm's measured state: `state.*`."""

    pose_topic: str = parameter(
        "robot/ee_pose",
        "Topic of the measured pose (PoseStamped) of the frame that the controller moves to its targets",
    )


@dataclass(frozen=True)
class ServoParameters:
    """MoveIt Servo: `servo.*`."""

    node: str = parameter("", "Name of MoveIt Servo's node, which is switched and unpaused at activate; '' = none")
    gain: float = parameter(2.0, "Velocity per following error in twists", "1/s", 0.0, 20.0)


@dataclass(frozen=True)
class GripperDriverParameters:
    """The gripper's driver: `hand.*`."""

    kind: str = parameter(
        GripperConfig.kind,
        "topic: std_msgs/Float64; franka: actions move and grasp of franka_msgs; command: "
        "action GripperCommand of control_msgs, parallel: action ParallelGripperCommand of it; none",
        choices=KINDS,
    )
    name: str = parameter(
        GripperConfig.name, "Its topic, action (command, parallel), or the node whose actions they are (franka)"
    )
    state_topic: str = parameter(GripperConfig.state_topic, "Topic of the gripper's joints (JointState)")
    joints: tuple[str, ...] = parameter(("",), "Joints whose positions add up to the opening; '' = the message's first")
    closed: float = parameter(GripperConfig.closed, "Sum of these positions when closed", "m", -1.0, 1.0)
    opened: float = parameter(GripperConfig.opened, "Sum of these positions when open", "m", -1.0, 1.0)
    speed: float = parameter(GripperConfig.speed, "Speed of the gripper", "m/s", 0.001, 1.0)
    force: float = parameter(GripperConfig.force, "Force of a grasp", "N", 0.0, 200.0)
    timeout: float = parameter(
        GripperConfig.timeout, "Longest time of a gripper goal; then it is cancelled", "s", 0.1, 60.0
    )


@dataclass(frozen=True)
class FrankaParameters:
    """A Franka under franka_ros2: `franka.*`."""

    robot_state_topic: str = parameter(
        FrankaConfig.robot_state_topic,
        "Topic of franka_msgs/FrankaRobotState; '' = none: a reflex is only noticed as an arm at rest",
    )
    recovery_action: str = parameter(FrankaConfig.recovery_action, "Action of bridge_node/recover_robot")


@dataclass(frozen=True)
class WidowXParameters:
    """A WidowX under xs_sdk: `widowx.*`."""

    ik: str = parameter(
        "own",
        "own: the bridge's inverse kinematics; servo: MoveIt Servo's (servo.node, command.kind and command.topic)",
        choices=("own", "servo"),
    )
    trajectory_topic: str = parameter(
        "servo_node/joint_trajectory", "Servo's command_out_topic (JointTrajectory), where widowx.ik is servo"
    )
    prefix: str = parameter(WidowXConfig.prefix, "Namespace of xs_sdk, such as wx250s/")
    profile_time: float = parameter(
        WidowXConfig.profile_time, "Duration of a move in the time profile of the arm's motors", "s", 0.02, 5.0
    )
    profile_acceleration: float = parameter(
        WidowXConfig.profile_acceleration, "Part of profile_time to accelerate", "s", 0.0, 2.0
    )
    pwm: float = parameter(
        WidowXConfig.pwm, "PWM of the gripper while it moves (the motor's largest is 885)", "", 50.0, 500.0
    )
    hold_pwm: float = parameter(WidowXConfig.hold_pwm, "PWM of the gripper while it holds something", "", 0.0, 300.0)
    joint_speed: float = parameter(1.5, "Highest speed of a joint's set-point", "rad/s", 0.05, 3.14)


@dataclass(frozen=True)
class RobotParameters:
    """Parameters of the bridge about the robot's interface."""

    command: CommandParameters = field(default_factory=CommandParameters)
    state: StateParameters = field(default_factory=StateParameters)
    servo: ServoParameters = field(default_factory=ServoParameters)
    hand: GripperDriverParameters = field(default_factory=GripperDriverParameters)
    franka: FrankaParameters = field(default_factory=FrankaParameters)
    widowx: WidowXParameters = field(default_factory=WidowXParameters)
    call_timeout: float = parameter(5.0, "Longest wait for an answer of the robot's services", "s", 0.1, 60.0)
