"""WidowX 250s under Interbotix' xs_sdk: joint positions by the bridge's inverse kinematics or MoveIt's, a PWM gripper.

Names and types: Interbotix/interbotix_ros_core, branches humble and jazzy, interbotix_xs_sdk/src/xs_sdk_obj.cpp: topics
commands/joint_group (JointGroupCommand) and commands/joint_single (JointSingleCommand), joint_states (the motors, then
left_finger and right_finger [m]), services get_robot_info (RobotInfo), set_operating_modes (OperatingModes),
set_motor_registers and get_motor_registers (RegisterValues; one value per joint of the group, without shadow motors).
PWM of the gripper, 150 … 350, and its end stops: interbotix_xs_modules/xs_robot/gripper.py (interbotix_ros_toolboxes).
The default profile of xs_sdk (interbotix_xsarm_control/config/modes.yaml) takes 2 s for every move.

Two traps of xs_sdk (interbotix_xs_driver, src/xs_driver.cpp). set_operating_modes cuts the torque of each motor that it
changes, so that an arm would sag: the profile is therefore written to the registers alone, as Interbotix' own
set_trajectory_time does, and the arm's mode is only checked. And a PWM lasts until the next one, with no watchdog:
while the gripper pushes there are stop orders (`adapter.StopOrders`) that end it. (Not a current limit: xs_sdk sets
none in its current_based_position mode, and the gripper's small motor, an XL430, is reported not to support one.)

With MoveIt Servo (`WidowXServoAdapter`) the bridge itself passes Servo's output on to xs_sdk. interbotix_xs_ros_control
(interbotix_ros_toolboxes) is not used for that: it sends the arm to its sleep pose when it starts, updates at 10 Hz,
and commands the gripper as well. Servo's trajectories (moveit_servo/src/utils/common.cpp: a rolling window of points,
the last one up to `max_expected_latency` ahead) go to the motors within the joints' limits while the gate permits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from openvla_ros.geometry import Pose
from openvla_ros.robots.adapter import (
    JOINTS,
    NOTHING,
    TRAJECTORY,
    Call,
    Handler,
    JointGroup,
    JointSingle,
    Measured,
    RobotAdapter,
    Sent,
    StopOrders,
    positions_of,
)
from openvla_ros.robots.arms import WIDOWX_250S, WIDOWX_FINGER
from openvla_ros.robots.generic import GenericAdapter, GenericConfig
from openvla_ros.robots.grippers import GripperConfig
from openvla_ros.robots.kinematics import Kinematics

NS = 1_000_000_000
FINGER = "left_finger"
SET_BACK = 10  # periods: a stamp older than the last step's by more is of a clock that was set back
MISREAD = 0.1  # [rad] outside its range no joint can be; xs_sdk reports -π for all joints after a failed bus read
# (wanted [rad], present [rad], step [s]) -> joint positions within their limits, names of the limits that cut them
Limit = Callable[[Sequence[float], Sequence[float], float], tuple[tuple[float, ...], tuple[str, ...]]]


@dataclass(frozen=True)
class WidowXConfig:
    """One WidowX. The largest PWM is 885."""

    prefix: str = ""  # namespace of xs_sdk's node, such as `wx250s/`
    group: str = "arm"
    gripper: str = "gripper"
    profile_time: float = 0.2  # [s] duration of a move: about the period of an action
    profile_acceleration: float = 0.05  # [s] of that to accelerate
    pwm: float = 250.0  # while the gripper opens or closes
    hold_pwm: float = 100.0  # while it holds something
    stall_speed: float = 0.002  # [m/s] a finger that is slower is stalled
    stall_time: float = 0.15  # [s]
    start_time: float = 0.3  # [s] a finger has to begin to move
    push_time: float = 3.0  # [s] the longest push; opening or closing takes about one
    end: float = 0.0005  # [m] a finger that is nearer to its end of travel has reached it
    reach: float = 0.01  # [m] a target that is farther out of reach is reported as clipped

    def __post_init__(self) -> None:
        """Check the profile (Dynamixel X, Profile Acceleration, time-based).

        Raises:
            ValueError: The motors would silently shorten the acceleration.
        """
        if 2.0 * self.profile_acceleration > self.profile_time:
            raise ValueError(
                f"widowx.profile_acceleration {self.profile_acceleration} s is over half of widowx.profile_time "
                f"{self.profile_time} s: the motors would shorten it"
            )


class WidowXAdapter(RobotAdapter):
    """The arm by inverse kinematics, the gripper by an effort that ends at a stall."""

    def __init__(self, config: WidowXConfig, limit: Limit, period: float) -> None:
        """Begin without joint positions.

        Args:
            config: Names, profile and efforts.
            limit: Ranges and speeds of the joints.
            period: Time between two targets [s].
        """
        super().__init__()
        self._config, self._limit, self._period = config, limit, period
        self._kinematics = Kinematics(WIDOWX_250S)
        self._group, self._single = f"{config.prefix}commands/joint_group", f"{config.prefix}commands/joint_single"
        self.topics = ((self._group, JointGroup), (self._single, JointSingle))
        self.sources: Mapping[str, Handler] = {f"{config.prefix}joint_states": Handler(JOINTS, self.read_joints)}
        self.guarded_topics = (self._single,)
        self._joints: tuple[float, ...] | None = None  # measured
        self._sent: tuple[float, ...] | None = None
        self._goal: tuple[float, ...] | None = None  # not reached yet because of the joints' speed
        self._stepped_ns: int | None = None  # time of the last step
        self._cut: tuple[str, ...] = ()  # limits that cut that step
        self._effort = 0.0  # PWM of the gripper; positive opens
        self._pushing = False  # with full effort, until it stalls
        self._began_ns: int | None = None
        self._finger: tuple[float, int] | None = None  # where it last moved, and when
        self._at = 0.0  # [m] finger position

    def setup(self) -> Sequence[Call]:
        """Check the arm and its mode, set the gripper's mode, write the arm's profile and read it back."""
        cfg = self._config
        launch = "ros2 launch interbotix_xsarm_control xsarm_control.launch.py robot_model:=wx250s"
        running = f"is xs_sdk running ({launch})?"
        info = Call(
            f"{cfg.prefix}get_robot_info", "interbotix_xs_msgs/srv/RobotInfo",
            {"cmd_type": "group", "name": cfg.group},
            {"joint_names": WIDOWX_250S.names, "mode": "position", "profile_type": "time"},
            f"{running} With its default modes.yaml? (The bridge does not switch the arm's mode: xs_sdk would cut its "
            "torque.)",
        )  # fmt: skip
        gripper = Call(
            f"{cfg.prefix}set_operating_modes", "interbotix_xs_msgs/srv/OperatingModes",
            {"cmd_type": "single", "name": cfg.gripper, "mode": "pwm"}, {}, running,
        )  # fmt: skip
        registers = {
            "Profile_Velocity": round(cfg.profile_time * 1000),  # [ms], by the motors' time-based profile
            "Profile_Acceleration": round(cfg.profile_acceleration * 1000),
        }
        write = [self._register("set", name, value, {}, running) for name, value in registers.items()]
        check = [
            # (One value per joint: xs_sdk answers with those that it could read.)
            self._register("get", name, 0, {"values": (value,) * len(WIDOWX_250S.joints)},
                           f"the motors did not take {name} = {value} ms: are all of them powered, with no red light?")
            for name, value in registers.items()
        ]  # fmt: skip
        return (info, gripper, *write, *check)

    def _register(self, verb: str, name: str, value: int, expect: dict[str, object], remedy: str) -> Call:
        cfg = self._config
        fields = {"cmd_type": "group", "name": cfg.group, "reg": name, "value": value}
        service = f"{cfg.prefix}{verb}_motor_registers"
        return Call(service, "interbotix_xs_msgs/srv/RegisterValues", fields, expect, remedy)

    # ---- the arm ---------------------------------------------------------------------------------

    def target(self, pose: Pose, stamp_ns: int) -> Sent:
        """Joint positions for `pose`, as far as ranges and speeds allow; nothing before the joints are known."""
        start = self._sent or self._joints
        if start is None:
            return ()
        found = self._kinematics.solve(pose, start)
        self._goal = found.positions
        sent = self._step(start, stamp_ns)
        self.clipped = (*(("reach",) if found.distance > self._config.reach else ()), *self._cut)
        return sent

    def _since_step(self, stamp_ns: int) -> float:
        """Time [s] since the joints' last step, at most a period.

        Targets and ticks both move the joints on, also at the same moment: no time counts twice.

        Args:
            stamp_ns: Time on the node's clock [ns].

        Returns:
            The time.
        """
        passed = self._period if self._stepped_ns is None else (stamp_ns - self._stepped_ns) / NS
        return self._period if passed < -SET_BACK * self._period else min(self._period, max(0.0, passed))

    def _step(self, start: tuple[float, ...], stamp_ns: int) -> Sent:
        """One step towards the goal, as far as the time since the last one allows."""
        assert self._goal is not None
        step = self._since_step(stamp_ns)
        if step <= 0.0:
            return ()
        self._stepped_ns = stamp_ns
        self._sent, self._cut = self._limit(self._goal, start, step)
        if not any(name.startswith("joint_speed") for name in self._cut):
            self._goal = None
        group = JointGroup(self._config.group, self._sent, len(WIDOWX_250S.joints))
        return ((self._group, group),)

    def rest(self, stamp_ns: int) -> Sent:
        """Drop the rest of the motion; the next one starts at the measured joints."""
        self._goal = self._sent = None
        self.clipped = self._cut = ()
        return ()

    def read_joints(self, names: Sequence[str], positions: Sequence[float], stamp_ns: int) -> Measured:
        """Compute the tool's pose and the gripper's opening.

        Args:
            names: Names of the joints in the message.
            positions: Their positions [rad; m of the finger].
            stamp_ns: Stamp of the message [ns].

        Returns:
            Pose and opening.

        Raises:
            ValueError: Joints are missing, or the motors could not be read.
        """
        values = positions_of((*WIDOWX_250S.names, FINGER), names, positions)
        for joint, value in zip(WIDOWX_250S.joints, values, strict=False):
            if not joint.low - MISREAD <= value <= joint.high + MISREAD:
                raise ValueError(f"{joint.name} at {value:.3f} rad is outside its range: the motors could not be read")
        pose = self._kinematics.forward(values[:-1])
        self._joints, self._at = tuple(values[:-1]), values[-1]
        if self._finger is None or abs(self._at - self._finger[0]) > self._config.stall_speed * self._config.stall_time:
            self._finger = (self._at, stamp_ns)
        closed, opened = WIDOWX_FINGER
        return Measured(pose, min(1.0, max(0.0, (self._at - closed) / (opened - closed))))

    # ---- the gripper -----------------------------------------------------------------------------

    def gripper(self, opening: float) -> Sent:
        """Full effort in one direction; `tick` ends it."""
        self._pushing, self._began_ns = True, None
        return self._push(self._config.pwm if opening >= 0.5 else -self._config.pwm)

    def _push(self, effort: float) -> Sent:
        self._effort = effort
        self.stop_orders = None
        if self._pushing:
            end = ((self._single, JointSingle(self._config.gripper, self._rest_effort())),)
            self.stop_orders = StopOrders(end, self._config.push_time + 1.0)
        return ((self._single, JointSingle(self._config.gripper, effort)),)

    def _rest_effort(self) -> float:
        """Effort after a push that met something: none if it opened, the holding effort if it closed."""
        return 0.0 if self._effort > 0.0 else -self._config.hold_pwm

    def tick(self, stamp_ns: int, permitted: bool) -> Sent:
        """Continue a motion that the joints' speed cut, and reduce the effort of a gripper that has arrived or stalls.

        The gripper is checked whether or not the arm may move: a motor that keeps pushing overheats.

        Args:
            stamp_ns: Time on the node's clock [ns].
            permitted: Whether the arm may move.

        Returns:
            Commands for joints and gripper.
        """
        sent: list[tuple[str, object]] = []
        if permitted and self._goal is not None and self._sent is not None and self._due(stamp_ns):
            sent += self._step(self._sent, stamp_ns)
        if self._pushing:
            self._began_ns = self._began_ns if self._began_ns is not None else stamp_ns
            sent += self._stalled(stamp_ns)
        return sent  # type: ignore[return-value]

    def _due(self, stamp_ns: int) -> bool:
        """Whether time alone asks for a step: not in the same period as a target's step."""
        return self._since_step(stamp_ns) > 0.5 * self._period

    def _stalled(self, now_ns: int) -> Sent:
        cfg, (closed, opened) = self._config, WIDOWX_FINGER
        at_end = self._at >= opened - cfg.end if self._effort > 0.0 else self._at <= closed + cfg.end
        assert self._began_ns is not None
        still_since = max(self._began_ns, self._finger[1] if self._finger else self._began_ns)
        pushed = now_ns - self._began_ns
        slow = pushed > cfg.start_time * NS and now_ns - still_since > cfg.stall_time * NS
        if not (at_end or slow or pushed > cfg.push_time * NS):
            return ()
        self._pushing = False
        return self._push(0.0 if at_end else self._rest_effort())


class WidowXServoAdapter(WidowXAdapter):
    """The arm by MoveIt Servo's inverse kinematics, with its handling of singularities and collisions."""

    def __init__(
        self, config: WidowXConfig, limit: Limit, period: float, servo: GenericConfig, trajectory_topic: str
    ) -> None:
        """Begin with no stream of targets.

        Args:
            config: Names, profile and efforts.
            limit: Ranges and speeds of the joints.
            period: Time between two targets [s].
            servo: How Servo is commanded.
            trajectory_topic: Servo's command_out_topic.
        """
        super().__init__(config, limit, period)
        self._servo = GenericAdapter(replace(servo, gripper=GripperConfig("none")))  # (the gripper is xs_sdk's)
        self.topics = (*self.topics, *self._servo.topics)
        trajectory = {trajectory_topic: Handler(TRAJECTORY, self.read_trajectory)}
        self.sources = {**self.sources, **self._servo.servo_sources, **trajectory}
        self.settling = self._servo.settling
        self._open = False  # from the first target until the stream has ended

    def start(self) -> Sequence[Call]:
        """Switch MoveIt Servo to the kind of command, and unpause it."""
        return self._servo.start()

    def stop(self) -> Sequence[Call]:
        """Pause MoveIt Servo."""
        return self._servo.stop()

    def pose_accepted(self, pose: Pose) -> None:
        """Take in the measured pose, for the following error that a twist compensates."""
        self._servo.pose_accepted(pose)

    def target(self, pose: Pose, stamp_ns: int) -> Sent:
        """The target for Servo; its answer is sent to the motors with the next tick."""
        self._open = True
        self.clipped = (*self._servo.clipped, *self._cut)
        return self._servo.target(pose, stamp_ns)

    def read_trajectory(self, names: Sequence[str], positions: Sequence[float]) -> Measured:
        """Take in the joint positions [rad] that Servo asks for; they count while the stream of targets is open."""
        wanted = tuple(positions_of(WIDOWX_250S.names, names, positions))
        if self._open:
            self._goal = wanted
        return NOTHING

    def tick(self, stamp_ns: int, permitted: bool) -> Sent:
        """Servo's newest answer for the motors, also while the target brakes; the repeated target; the gripper."""
        start = self._sent or self._joints
        ready = self._open and self._goal is not None and self._due(stamp_ns)
        arm = self._step(start, stamp_ns) if ready and start is not None else ()
        return (*arm, *self._servo.tick(stamp_ns, permitted), *super().tick(stamp_ns, False))

    def rest(self, stamp_ns: int) -> Sent:
        """Ignore what Servo sends from now on."""
        self._open = False
        return (*super().rest(stamp_ns), *self._servo.rest(stamp_ns))
