"""WidowX 250s under Interbotix' xs_sdk: joint positions by this bridge's inverse kinematics or MoveIt's, a PWM gripper.

Names and types: Interbotix/interbotix_ros_core, branches humble and jazzy, interbotix_xs_sdk/src/xs_sdk_obj.cpp: topics
commands/joint_group (JointGroupCommand) and commands/joint_single (JointSingleCommand), joint_states (the motors, then
left_finger and right_finger [m]), services get_robot_info (RobotInfo), set_operating_modes (OperatingModes),
set_motor_registers and get_motor_registers (RegisterValues; one value a joint of the group, shadows are not in it).
PWM of the gripper, 150 … 350, and its end stops: interbotix_xs_modules/xs_robot/gripper.py (interbotix_ros_toolboxes).
The default profile of xs_sdk (interbotix_xsarm_control/config/modes.yaml) takes 2 s for every move.

Two traps of xs_sdk (interbotix_xs_driver, src/xs_driver.cpp). set_operating_modes cuts the torque of each motor it
changes: an arm would sag, so its profile goes into the registers alone, as Interbotix' own set_trajectory_time does it,
and its mode is only looked at. And a PWM is obeyed until the next one comes, with no watchdog: while the hand pushes
there is a last will (`adapter.LastWill`) that ends it. (No current limit instead: xs_sdk sets none in its
current_based_position mode, and the hand's small motor, an XL430, is said to know none.)

MoveIt Servo is put before xs_sdk by this bridge itself (`WidowXServoAdapter`), not through interbotix_xs_ros_control
(interbotix_ros_toolboxes): that one sends the arm to its sleep pose when it starts, updates at 10 Hz, and commands the
hand as well. Servo's trajectories (moveit_servo/src/utils/common.cpp: a rolling window of points, the last one up to
`max_expected_latency` ahead) come here, and go to the motors within the joints' limits while the gate lets targets out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from openvla_ros.geometry import Pose
from openvla_ros.robots.adapter import (
    JOINTS,
    TRAJECTORY,
    Call,
    JointGroup,
    JointSingle,
    LastWill,
    Measured,
    RobotAdapter,
    Sent,
    Source,
    positions_of,
)
from openvla_ros.robots.arms import WIDOWX_250S, WIDOWX_FINGER
from openvla_ros.robots.generic import GenericAdapter, GenericConfig
from openvla_ros.robots.grippers import HandConfig
from openvla_ros.robots.kinematics import Kinematics

NS = 1_000_000_000
FINGER = "left_finger"
SET_BACK = 10  # [1] periods: a stamp so much older than the last step's is of a clock that was set back
MISREAD = 0.1  # [rad] outside its range no joint can be: what xs_sdk says when a bus read failed is -π for all
# (wanted, present, step [s]) -> joint positions within their limits, and the limits' names
Limit = Callable[[Sequence[float], Sequence[float], float], tuple[tuple[float, ...], tuple[str, ...]]]


@dataclass(frozen=True)
class WidowXConfig:
    """One WidowX. PWM of 885 is all the motor can."""

    prefix: str = ""  # namespace of xs_sdk's node, such as `wx250s/`
    group: str = "arm"
    gripper: str = "gripper"
    profile_time: float = 0.2  # [s] a move to a new goal takes: about the period of an action
    profile_acceleration: float = 0.05  # [s] of it to speed up
    pwm: float = 250.0  # while the hand opens or closes
    hold_pwm: float = 100.0  # while it holds something
    stall_speed: float = 0.002  # [m/s] of a finger; slower is stalled
    stall_time: float = 0.15  # [s]
    start_time: float = 0.3  # [s] a finger has to begin to move
    push_time: float = 3.0  # [s] the longest push; opening or closing takes about one
    end: float = 0.0005  # [m] so near to its end of travel a finger counts as there
    reach: float = 0.01  # [m] a target farther from what the arm reaches is named as a limit

    def __post_init__(self) -> None:
        """A profile that the motors would silently cut is refused (Dynamixel X, Profile Acceleration, time-based)."""
        if 2.0 * self.profile_acceleration > self.profile_time:
            raise ValueError(
                f"widowx.profile_acceleration {self.profile_acceleration} s is over half of widowx.profile_time "
                f"{self.profile_time} s: the motors would cut it"
            )


class WidowXAdapter(RobotAdapter):
    """The arm by inverse kinematics, the hand by effort that ends at a stall."""

    def __init__(self, config: WidowXConfig, limit: Limit, period: float) -> None:
        """`period` [s] between two targets; limit: ranges and speeds of the joints."""
        self._config, self._limit, self._period = config, limit, period
        self._kinematics = Kinematics(WIDOWX_250S)
        self._group, self._single = f"{config.prefix}commands/joint_group", f"{config.prefix}commands/joint_single"
        self._states = f"{config.prefix}joint_states"
        self.topics = ((self._group, JointGroup), (self._single, JointSingle))
        self.sources = (Source(self._states, "joints", JOINTS),)
        self.will_topics = (self._single,)
        self._joints: tuple[float, ...] | None = None  # measured
        self._sent: tuple[float, ...] | None = None
        self._goal: tuple[float, ...] | None = None  # what the joints' speed kept from being sent yet
        self._stepped_ns: int | None = None  # when the joints were last sent on
        self._cut: tuple[str, ...] = ()  # the limits that cut that step
        self._effort = 0.0  # PWM of the hand; over 0 opens
        self._pushing = False  # with full effort: looking for the stall
        self._began_ns: int | None = None
        self._finger: tuple[float, int] | None = None  # where it was when it was last seen to move, and when
        self._at = 0.0  # [m] where it is

    def setup(self) -> Sequence[Call]:
        """Whether this is the arm and in its mode, the mode of the hand, the arm's profile, and whether that took."""
        cfg = self._config
        launch = "ros2 launch interbotix_xsarm_control xsarm_control.launch.py robot_model:=wx250s"
        running = f"is xs_sdk running ({launch})?"
        info = Call(
            f"{cfg.prefix}get_robot_info", "interbotix_xs_msgs/srv/RobotInfo",
            {"cmd_type": "group", "name": cfg.group},
            {"joint_names": WIDOWX_250S.names, "mode": "position", "profile_type": "time"},
            f"{running} With the modes.yaml it comes with? (The bridge does not switch the arm's mode: xs_sdk would "
            "cut its torque.)",
        )  # fmt: skip
        hand = Call(
            f"{cfg.prefix}set_operating_modes", "interbotix_xs_msgs/srv/OperatingModes",
            {"cmd_type": "single", "name": cfg.gripper, "mode": "pwm"}, {}, running,
        )  # fmt: skip
        registers = {
            "Profile_Velocity": round(cfg.profile_time * 1000),  # [ms], by the motors' time-based profile
            "Profile_Acceleration": round(cfg.profile_acceleration * 1000),
        }
        write = [self._register("set", name, value, {}, running) for name, value in registers.items()]
        check = [
            # (One value for each joint: xs_sdk answers with those that it could read.)
            self._register("get", name, 0, {"values": (value,) * len(WIDOWX_250S.joints)},
                           f"the motors did not take {name} = {value} ms: are all powered and without a red light?")
            for name, value in registers.items()
        ]  # fmt: skip
        return (info, hand, *write, *check)

    def _register(self, verb: str, name: str, value: int, expect: dict[str, object], remedy: str) -> Call:
        cfg = self._config
        fields = {"cmd_type": "group", "name": cfg.group, "reg": name, "value": value}
        service = f"{cfg.prefix}{verb}_motor_registers"
        return Call(service, "interbotix_xs_msgs/srv/RegisterValues", fields, expect, remedy)

    # ---- the arm ---------------------------------------------------------------------------------

    def target(self, pose: Pose, stamp_ns: int) -> Sent:
        """The joint positions for `pose`, as far as ranges and speeds allow. Nothing before the joints are known."""
        start = self._sent or self._joints
        if start is None:
            return ()
        found = self._kinematics.solve(pose, start)
        self._goal = found.positions
        sent = self._go(start, stamp_ns)
        self.clipped = (*(("reach",) if found.distance > self._config.reach else ()), *self._cut)
        return sent

    def _since_step(self, stamp_ns: int) -> float:
        """Time [s] that the joints have had for their next step: a period at most, and none of it twice.

        The node's targets and ticks both send the joints on, at the same moment too.
        """
        passed = self._period if self._stepped_ns is None else (stamp_ns - self._stepped_ns) / NS
        return self._period if passed < -SET_BACK * self._period else min(self._period, max(0.0, passed))

    def _go(self, start: tuple[float, ...], stamp_ns: int) -> Sent:
        """One step towards the goal, as long as the time since the last one allows."""
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
        """What is left of a way is not gone any more; the next one starts at the measured joints."""
        self._goal = self._sent = None
        self.clipped = self._cut = ()
        return ()

    def joints_seen(self, topic: str, names: Sequence[str], positions: Sequence[float], stamp_ns: int) -> Measured:
        """The tool's pose and the hand's opening."""
        values = positions_of(topic, (*WIDOWX_250S.names, FINGER), names, positions)
        for joint, value in zip(WIDOWX_250S.joints, values, strict=False):
            if not joint.low - MISREAD <= value <= joint.high + MISREAD:
                raise ValueError(f"{joint.name} at {value:.3f} rad is outside its range: the motors could not be read")
        pose = self._kinematics.forward(values[:-1])
        self._joints, self._at = tuple(values[:-1]), values[-1]
        if self._finger is None or abs(self._at - self._finger[0]) > self._config.stall_speed * self._config.stall_time:
            self._finger = (self._at, stamp_ns)
        closed, opened = WIDOWX_FINGER
        return Measured(pose, min(1.0, max(0.0, (self._at - closed) / (opened - closed))))

    # ---- the hand --------------------------------------------------------------------------------

    def gripper(self, opening: float) -> Sent:
        """Full effort one way or the other; `tick` ends it."""
        self._pushing, self._began_ns = True, None
        return self._push(self._config.pwm if opening >= 0.5 else -self._config.pwm)

    def _push(self, effort: float) -> Sent:
        self._effort = effort
        self.will = None
        if self._pushing:
            ended = ((self._single, JointSingle(self._config.gripper, self._rest_effort())),)
            self.will = LastWill(ended, self._config.push_time + 1.0)
        return ((self._single, JointSingle(self._config.gripper, effort)),)

    def _rest_effort(self) -> float:
        """What a push ends in where it meets something: an open hand needs none, a closed one holds."""
        return 0.0 if self._effort > 0.0 else -self._config.hold_pwm

    def tick(self, stamp_ns: int, permitted: bool) -> Sent:
        """The rest of a way that was cut by the joints' speed; and less effort for a hand that has arrived or stalls.

        The hand is looked after whether or not the arm may move: a motor that pushes on overheats.
        """
        sent: list[tuple[str, object]] = []
        if permitted and self._goal is not None and self._sent is not None and self._due(stamp_ns):
            sent += self._go(self._sent, stamp_ns)
        if self._pushing:
            self._began_ns = self._began_ns if self._began_ns is not None else stamp_ns
            sent += self._stalled(stamp_ns)
        return sent  # type: ignore[return-value]

    def _due(self, stamp_ns: int) -> bool:
        """Whether a step may come of the time alone: not beside a target's, in the same period."""
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
    """The arm by MoveIt Servo's inverse kinematics, with its singularities and collisions looked after."""

    def __init__(
        self, config: WidowXConfig, limit: Limit, period: float, servo: GenericConfig, trajectory_topic: str
    ) -> None:
        """`servo`: how Servo is commanded; trajectory_topic: its command_out_topic."""
        super().__init__(config, limit, period)
        self._servo = GenericAdapter(replace(servo, hand=HandConfig("none")))  # (the hand is xs_sdk's)
        self.topics = (*self.topics, *self._servo.topics)
        status = [source for source in self._servo.sources if source.what == "servo"]
        self.sources = (*self.sources, *status, Source(trajectory_topic, "trajectory", TRAJECTORY))
        self.settling = self._servo.settling
        self._open = False  # from the first target on until the stream has ended

    def start(self) -> Sequence[Call]:
        """MoveIt Servo's sequence."""
        return self._servo.start()

    def stop(self) -> Sequence[Call]:
        """MoveIt Servo is paused."""
        return self._servo.stop()

    def pose_seen(self, pose: Pose) -> None:
        """What a twist has to make up for."""
        self._servo.pose_seen(pose)

    def servo_seen(self, code: int) -> None:
        """What slows Servo down or halts it."""
        self._servo.servo_seen(code)

    def target(self, pose: Pose, stamp_ns: int) -> Sent:
        """What Servo is to do; its answer goes to the motors with the next tick."""
        self._open = True
        self.clipped = (*self._servo.clipped, *self._cut)
        return self._servo.target(pose, stamp_ns)

    def trajectory_seen(self, topic: str, names: Sequence[str], positions: Sequence[float]) -> None:
        """Where Servo wants the joints next, while the gate lets targets out."""
        wanted = tuple(positions_of(topic, WIDOWX_250S.names, names, positions))
        if self._open:
            self._goal = wanted

    def tick(self, stamp_ns: int, permitted: bool) -> Sent:
        """Servo's newest answer for the motors, also while the target brakes; Servo's own reminder; the hand."""
        start = self._sent or self._joints
        ready = self._open and self._goal is not None and self._due(stamp_ns)
        arm = self._go(start, stamp_ns) if ready and start is not None else ()
        return (*arm, *self._servo.tick(stamp_ns, permitted), *super().tick(stamp_ns, False))

    def rest(self, stamp_ns: int) -> Sent:
        """What Servo says from now on goes nowhere."""
        self._open = False
        return (*super().rest(stamp_ns), *self._servo.rest(stamp_ns))
