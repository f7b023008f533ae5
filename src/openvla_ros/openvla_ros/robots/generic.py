"""Any arm with a pose-target controller or MoveIt Servo, by YAML alone.

Pose targets (PoseStamped): `target_pose` of utiasDSL/crisp_controllers (src/cartesian_controller.cpp: KeepLast(1); it
ignores the topic while two nodes publish on it, and always the frame's name: targets are in the URDF's root frame),
`<controller>/target_frame` of FZI's cartesian_controllers (cartesian_motion_controller/src/
cartesian_motion_controller.cpp), `<servo node>/pose_target_cmds` of MoveIt Servo, and
`cartesian_impedance_example_controller/equilibrium_pose` of a copy of franka_ros2's example without its own motion;
velocities (TwistStamped): `<servo node>/delta_twist_cmds`. All of them move one frame of the arm to the target: the
measured pose must be of that frame.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from openvla_ros.geometry import Pose
from openvla_ros.robots import servo
from openvla_ros.robots.adapter import (
    NOTHING,
    POSE,
    SERVO_STATUS,
    Call,
    Handler,
    Measured,
    PoseTarget,
    RobotAdapter,
    Sent,
    TwistTarget,
)
from openvla_ros.robots.grippers import GripperConfig, GripperDriver


@dataclass(frozen=True)
class GenericConfig:
    """Topics and limits of an arm's controller."""

    base_frame: str
    command: str = "pose"  # pose | twist
    topic: str = "target_pose"
    pose_topic: str = "robot/ee_pose"
    servo_node: str = ""  # '': the controller is not MoveIt Servo
    servo_gain: float = 2.0  # [1/s]
    speed: float = 0.5  # [m/s] largest linear velocity of a twist
    turn: float = 2.0  # [rad/s] largest angular velocity of a twist
    period: float = 0.02  # [s] between two targets
    gripper: GripperConfig = field(default_factory=GripperConfig)


class GenericAdapter(RobotAdapter):
    """Pose or twist targets, and a gripper."""

    def __init__(self, config: GenericConfig) -> None:
        super().__init__()
        self._config, self._gripper = config, GripperDriver(config.gripper)
        kind = TwistTarget if config.command == "twist" else PoseTarget
        self.topics = ((config.topic, kind), *self._gripper.topics)
        self.actions, self.gripper_timeout = self._gripper.actions, self._gripper.timeout
        self.servo_sources: Mapping[str, Handler] = {}
        if config.servo_node:
            self.settling = servo.SETTLING
            self.servo_sources = {f"{config.servo_node}/status": Handler(SERVO_STATUS, self.read_servo_status)}
        pose = {config.pose_topic: Handler(POSE, self.read_pose)}
        self.sources = {**pose, **self._gripper.sources, **self.servo_sources}
        self._last: tuple[Pose, int] | None = None  # the newest target, and its time
        self._twister = servo.Twister(config.servo_gain, config.speed, config.turn)

    def start(self) -> Sequence[Call]:
        """Switch MoveIt Servo to the kind of command, and unpause it."""
        return servo.begin(self._config.servo_node, self._config.command) if self._config.servo_node else ()

    def stop(self) -> Sequence[Call]:
        """Pause MoveIt Servo."""
        return servo.end(self._config.servo_node) if self._config.servo_node else ()

    def pose_accepted(self, pose: Pose) -> None:
        """Take in the measured pose, for the following error that a twist compensates."""
        self._twister.measured = pose

    def read_servo_status(self, code: int) -> Measured:
        """Read a status code of MoveIt Servo; what slows it down or halts it is reported as a limit."""
        self.clipped = () if code == 0 else (servo.CUTS.get(code, f"servo_status_{code}"),)
        return NOTHING

    def target(self, pose: Pose, stamp_ns: int) -> Sent:
        """The pose itself, or the velocity that leads there."""
        frame = self._config.base_frame
        self._last = (pose, stamp_ns)
        if self._config.command == "twist":
            return ((self._config.topic, self._twister.follow(pose, frame, stamp_ns)),)
        return ((self._config.topic, PoseTarget(pose, frame, stamp_ns)),)

    def tick(self, stamp_ns: int, permitted: bool) -> Sent:
        """Repeat the last target after the targets have ended, until a lagging arm has reached it.

        A velocity must be followed by another one, and MoveIt Servo drops poses and velocities after its
        incoming_command_timeout; other controllers keep the last pose.

        Args:
            stamp_ns: Time on the node's clock [ns].
            permitted: Whether the arm may move.

        Returns:
            The last target, or nothing.
        """
        last, expires = self._last, self._config.command == "twist" or bool(self._config.servo_node)
        if last is None or not permitted or not expires or stamp_ns - last[1] <= 1.5e9 * self._config.period:
            return ()
        return self.target(last[0], stamp_ns)

    def rest(self, stamp_ns: int) -> Sent:
        """Zero velocity; a pose target holds by itself."""
        self._last = None
        if self._config.command != "twist":
            return ()
        return ((self._config.topic, self._twister.rest(self._config.base_frame, stamp_ns)),)

    def gripper(self, opening: float) -> Sent:
        """The gripper's command."""
        return self._gripper.command(opening)
