"""Any arm with a pose-target controller or MoveIt Servo, by YAML alone.

Pose targets (PoseStamped): `target_pose` of utiasDSL/crisp_controllers (src/cartesian_controller.cpp: KeepLast(1); it
ignores the topic while two nodes publish there, and the frame's name always: targets are in the URDF's root),
`<controller>/target_frame` of FZI's cartesian_controllers (cartesian_motion_controller/src/
cartesian_motion_controller.cpp), `<servo node>/pose_target_cmds` of MoveIt Servo, and
`cartesian_impedance_example_controller/equilibrium_pose` of a copy of franka_ros2's example that does not move by
itself; velocities (TwistStamped): `<servo node>/delta_twist_cmds`. All of them pull one frame of the arm to the target:
the measured pose must be that frame's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from openvla_ros.geometry import Pose
from openvla_ros.robots import servo
from openvla_ros.robots.adapter import POSE, Call, Measured, PoseTarget, RobotAdapter, Sent, Source, TwistTarget
from openvla_ros.robots.grippers import Hand, HandConfig


@dataclass(frozen=True)
class GenericConfig:
    """Where targets go and states come from."""

    base_frame: str
    command: str = "pose"  # pose | twist
    topic: str = "target_pose"
    pose_topic: str = "robot/ee_pose"
    servo_node: str = ""  # '' = the controller is not MoveIt Servo
    servo_gain: float = 2.0  # [1/s]
    speed: float = 0.5  # [m/s], cap on a twist
    turn: float = 2.0  # [rad/s]
    period: float = 0.02  # [s] between two targets
    hand: HandConfig = field(default_factory=HandConfig)


class GenericAdapter(RobotAdapter):
    """Pose or twist targets, and a hand."""

    def __init__(self, config: GenericConfig) -> None:
        self._config, self._hand = config, Hand(config.hand)
        kind = TwistTarget if config.command == "twist" else PoseTarget
        self.topics = ((config.topic, kind), *self._hand.topics)
        self.actions = self._hand.actions
        self.sources = (Source(config.pose_topic, "pose", POSE), *self._hand.sources)
        if config.servo_node:
            self.settling = servo.SETTLING
            self.sources = (*self.sources, Source(f"{config.servo_node}/status", "servo", servo.STATUS))
        self._last: tuple[Pose, int] | None = None  # the newest target, and its time
        self._twister = servo.Twister(config.servo_gain, config.speed, config.turn)

    def start(self) -> Sequence[Call]:
        """MoveIt Servo's sequence."""
        return servo.begin(self._config.servo_node, self._config.command) if self._config.servo_node else ()

    def stop(self) -> Sequence[Call]:
        """MoveIt Servo is paused."""
        return servo.end(self._config.servo_node) if self._config.servo_node else ()

    def pose_seen(self, pose: Pose) -> None:
        """What a twist has to make up for."""
        self._twister.measured = pose

    def servo_seen(self, code: int) -> None:
        """What slows Servo down or halts it, as a limit that cuts the targets."""
        self.clipped = () if code == 0 else (servo.CUTS.get(code, f"servo_status_{code}"),)

    def target(self, pose: Pose, stamp_ns: int) -> Sent:
        """The pose as it is, or the velocity that leads there."""
        frame = self._config.base_frame
        self._last = (pose, stamp_ns)
        if self._config.command == "twist":
            return ((self._config.topic, self._twister.follow(pose, frame, stamp_ns)),)
        return ((self._config.topic, PoseTarget(pose, frame, stamp_ns)),)

    def tick(self, stamp_ns: int, permitted: bool) -> Sent:
        """What brings an arm that lags behind to the last target when the targets have ended.

        A velocity must be followed by another one, and MoveIt Servo forgets a pose as well as a velocity after its
        incoming_command_timeout; other controllers keep on pulling towards a pose.
        """
        last, forgets = self._last, self._config.command == "twist" or bool(self._config.servo_node)
        if last is None or not permitted or not forgets or stamp_ns - last[1] <= 1.5e9 * self._config.period:
            return ()
        return self.target(last[0], stamp_ns)

    def rest(self, stamp_ns: int) -> Sent:
        """A velocity of nought; a pose holds by itself."""
        self._last = None
        if self._config.command != "twist":
            return ()
        return ((self._config.topic, self._twister.rest(self._config.base_frame, stamp_ns)),)

    def gripper(self, opening: float) -> Sent:
        """The hand's command."""
        return self._hand.command(opening)

    def joints_seen(self, topic: str, names: Sequence[str], positions: Sequence[float], stamp_ns: int) -> Measured:
        """The hand's opening."""
        return self._hand.seen(topic, names, positions)
