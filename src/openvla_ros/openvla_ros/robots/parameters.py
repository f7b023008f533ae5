"""The bridge's parameters about the robot's own face, and the adapter that is made from them."""

from __future__ import annotations

from openvla_ros.parameters import Parameter as P
from openvla_ros.robots.franka import FrankaConfig
from openvla_ros.robots.grippers import KINDS, GripperConfig
from openvla_ros.robots.widowx import WidowXConfig

_HAND, _FRANKA, _WIDOWX = GripperConfig(), FrankaConfig(), WidowXConfig()

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
