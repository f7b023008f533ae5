"""The bridge's core with a simulated robot and operator, and a judge that checks every target that comes out."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.spatial.transform import Rotation

from openvla_policy.contract.action import StampedChunk
from openvla_ros.control.bridge import BridgeCore
from openvla_ros.control.bridge_config import CoreConfig
from openvla_ros.control.commands import CancelGoal, Commands
from openvla_ros.geometry import Bounds, Pose, Vector, angle
from openvla_ros.safety.gate import GateConfig, State
from openvla_ros.safety.limits import Limits
from openvla_ros.safety.watchdogs import NS, Now, Watchdogs
from openvla_ros.safety.zones import Cone, KeepOut, Zones, clamp

DOWN = (1.0, 0.0, 0.0, 0.0)
START = Pose.of((0.45, 0.0, 0.25), DOWN)
POST = KeepOut("post", (0.5, 0.05, -0.1), (0.56, 0.2, 0.4))
LIMITS = Limits(
    Zones((0.3, -0.2, 0.1), (0.6, 0.2, 0.4), (POST,), Cone(angle=0.5, yaw_low=-1.2, yaw_high=1.2)),
    max_translation=0.08, max_rotation=0.4, move=Bounds(0.5, 5.0, 100.0), turn=Bounds(2.0, 20.0, 400.0),
)  # fmt: skip
DOGS = Watchdogs(observation=0.6, action=0.4, state=0.2, clock_jump=0.5, future=0.05)
CONFIG = CoreConfig(
    gate=GateConfig(LIMITS, DOGS, sources=("policy", "expert", "teleop")),
    max_state_speed=20.0,
    max_following_error=(0.08, 0.5),
)


def streaming(config: CoreConfig, **changes: object) -> CoreConfig:
    """The same in streaming control."""
    return replace(config, gate=replace(config.gate, mode="streaming"), **changes)  # type: ignore[arg-type]


STILL = (0.0, 0.0, 0.0)
UP = Rotation.from_quat(DOWN).inv()
SHARES = np.linspace(0.0, 1.0, 11)[:, None]


@dataclass
class Judge:
    """Checks targets with its own arithmetic: finite differences, and scipy's rotations."""

    config: CoreConfig
    poses: list[Pose] = field(default_factory=list)  # the newest target of one motion
    hard: list[bool] = field(default_factory=list)  # whether each of the newest four was sent while braking
    moves: list[Vector] = field(default_factory=list)  # velocities between them [m/s]
    turns: list[Vector] = field(default_factory=list)  # likewise, angular [rad/s]

    def begin(self, pose: Pose) -> None:
        """A motion from rest."""
        self.poses, self.hard, self.moves, self.turns = [pose], [False] * 4, [STILL] * 3, [STILL] * 3

    def see(self, pose: Pose, braking: bool) -> None:
        """Check one more target, a period after the one before."""
        zones, dt, last = self.config.gate.limits.zones, self.config.period, self.poses[-1]
        p, before = pose.position, last.position
        assert all(map(math.isfinite, (*p, *pose.quaternion)))
        for v, low, high in zip(p, zones.low, zones.high, strict=True):
            assert low - 1e-8 <= v <= high + 1e-8, f"out of box: {p}"
        if zones.keep_out:
            way = np.array(before) + SHARES * (np.array(p) - np.array(before))
            for box in zones.keep_out:
                inside = np.all((way > box.low) & (way < box.high), axis=1)
                assert not inside.any(), f"through {box.name}: {before} … {p}"
        lean, yaw = lean_and_yaw(pose)
        cone = zones.cone
        assert lean <= cone.angle + 1e-5, f"leans {lean}"
        assert cone.yaw_low - 1e-5 <= yaw <= cone.yaw_high + 1e-5, f"turned {yaw}"
        turn = (Rotation.from_quat(pose.quaternion) * Rotation.from_quat(last.quaternion).inv()).as_rotvec()
        self.poses, self.hard = [pose], [*self.hard[-3:], braking]
        self.moves = [*self.moves[-2:], scaled(minus(p, before), 1 / dt)]
        self.turns = [*self.turns[-2:], scaled((float(turn[0]), float(turn[1]), float(turn[2])), 1 / dt)]
        self._judge_derivatives()

    def _judge_derivatives(self) -> None:
        limits, dt = self.config.gate.limits, self.config.period
        k = limits.stop_factor if any(self.hard) else 1.0
        for name, (v1, v2, v3), bounds, slack in (("move", self.moves, limits.move, 1.0),
                                                  ("turn", self.turns, limits.turn, 1.03)):  # fmt: skip
            speed, change = math.hypot(*v3), minus(v3, v2)
            acceleration, jerk = math.hypot(*change) / dt, math.hypot(*minus(change, minus(v2, v1))) / dt**2
            assert speed <= bounds.speed * slack + 1e-5, f"{name}: speed {speed}"
            assert acceleration <= k * bounds.acceleration * slack + 1e-2, f"{name}: acceleration {acceleration}"
            assert jerk <= k * bounds.jerk * slack + 1.0, f"{name}: jerk {jerk}"


def minus(a: Vector, b: Vector) -> Vector:
    return (a[0] - b[0], a[1] - b[1], a[2] - b[2])


def scaled(a: Vector, k: float) -> Vector:
    return (a[0] * k, a[1] * k, a[2] * k)


def lean_and_yaw(pose: Pose) -> tuple[float, float]:
    """Angle of the tool from straight down, and its yaw about that axis: by vectors, not by swing and twist."""
    turned = Rotation.from_quat(pose.quaternion) * UP
    x, y, z = (float(v) for v in turned.apply((0.0, 0.0, -1.0)))
    side, across = (y, -x, 0.0), math.hypot(x, y)  # (0, 0, -1) × leaning
    lean = math.atan2(across, -z)
    if lean > 3.14:
        return lean, 0.0
    swing = Rotation.from_rotvec(scaled(side, lean / across)) if lean > 1e-9 else Rotation.identity()
    return lean, -float((swing.inv() * turned).as_rotvec()[2])


class Bench:
    """The core, a robot that follows with a lag, and the clocks."""

    def __init__(self, config: CoreConfig = CONFIG, start: Pose = START) -> None:
        self.config, self.core, self.judge = config, BridgeCore(config), Judge(config)
        self.steady, self.offset = 1000 * NS, 1_000_000 * NS
        self.pose, self.command, self.talks = start, start, True
        self.openings: list[tuple[int, float]] = []
        self.sent_at = -(10**18)  # node clock of the newest target
        self.targets: list[Pose] = []
        self.sequence = 0
        self.notes: list[str] = []
        self.gripper_goals: list[int] = []  # numbers of the commands in `openings`
        self.cancelled: list[CancelGoal] = []
        self.moving = False
        self.sent_chunks: list[StampedChunk] = []
        self.stopped_for = 0  # ticks since motion was last permitted

    @property
    def now(self) -> Now:
        return Now(self.steady + self.offset, self.steady)

    @property
    def state(self) -> State:
        return self.core.gate.state

    def ready(self) -> Bench:
        """Permit everything, with a robot that reports its state."""
        self.call("enable", True)
        self.call("activate")
        self.run(2)
        assert self.state is State.READY, self.core.gate.reason
        return self

    def call(self, method: str, *arguments: object, **options: object) -> Commands:
        """Pass an event to the core, and judge what comes out."""
        core = self.core
        resting = core.stream.target is None
        commands: Commands = getattr(core, method)(*arguments, self.now, **options)
        assert commands.state == core.gate and commands.braking == core.stream.braking
        assert not commands.moving or self.state is State.EXECUTING
        self.notes += commands.notes
        self.cancelled += commands.goals.cancel
        self.moving = commands.moving
        if resting and (core.stream.target is not None or commands.targets):
            # Just outside its limits a motion may begin at the nearest allowed pose: from there it is judged.
            limits, stands, margin = self.config.gate.limits, core.robot.pose or self.pose, core.stream.margin
            begin = clamp(stands, limits.zones, margin)[0]
            far = (math.dist(begin.position, stands.position), angle(begin, stands))
            assert all(is_ <= may + margin + 1e-9 for is_, may in zip(far, self.config.tolerance, strict=True))
            self.judge.begin(begin)
        for target in commands.targets:
            self.judge.see(target.pose, commands.braking or self.state is not State.EXECUTING)
            self.targets.append(target.pose)
            self.command, self.sent_at = target.pose, self.now.node
        if commands.goals.gripper is not None:
            opening = commands.goals.gripper.opening
            assert opening in (0.0, 1.0)
            clock = self.now.node if self.config.simulated_time else self.steady
            since = (clock - self.openings[-1][0]) / NS if self.openings else math.inf
            interval = self.config.gate.limits.gripper_interval
            assert since < 0.0 or since >= interval, f"the gripper was commanded again after {since} s"
            self.openings.append((clock, opening))
            self.gripper_goals.append(commands.goals.gripper.goal)
        moved = method in ("robot_restarted", "robot_pose", "fault")  # not by its own motion
        if not resting and core.stream.target is None and not moved:
            for _ in range(3):  # a motion that is over has come to rest by its limits
                self.judge.see(self.judge.poses[-1], self.judge.hard[-1])
        return commands

    def tick(self, dt: float | None = None) -> None:
        """Let a period pass: the robot reports, the bridge ticks."""
        self.steady += round((self.config.period if dt is None else dt) * NS)
        if self.talks:
            self.measured(self.call)
        self.ticked()

    def measured(self, call: Callable[..., object]) -> None:
        """Let the robot follow its target and report pose and opening through `call`."""
        a, b = np.array(self.pose.position), np.array(self.command.position)
        p = a + 0.4 * (b - a)
        self.pose = Pose.of(p, self.command.quaternion)
        call("robot_pose", self.pose, self.now.node)
        opening = self.openings[-1][1] if self.openings else 1.0
        call("gripper_opening", opening, self.now.node)

    def ticked(self) -> None:
        """Tick the bridge; an arm at rest is judged like a moving one."""
        count = len(self.targets)
        self.call("tick")
        at = self.core.stream.target
        if len(self.targets) == count and self.judge.poses and at is not None and not self.core.stream.busy:
            self.judge.see(self.judge.poses[-1], False)

    def run(self, ticks: int) -> None:
        for _ in range(ticks):
            self.tick()

    def send(self, *rows: tuple[float, ...], **changes: object) -> bool:
        """Send a chunk that answers the newest image; whether it was accepted."""
        self.sequence += 1
        now = self.now.node
        fields: dict[str, object] = dict(
            actions=rows, frame="base", stamp_ns=now, observation_ns=now, sequence=self.sequence, source="policy",
            period=0.2,
        )  # fmt: skip
        count = self.core.gate.refused_count
        self.sent_chunks.append(StampedChunk(**(fields | changes)))  # type: ignore[arg-type]
        self.call("chunk", self.sent_chunks[-1])
        return self.core.gate.refused_count == count


def row(x=0.0, y=0.0, z=0.0, roll=0.0, pitch=0.0, yaw=0.0, gripper=1.0) -> tuple[float, ...]:
    """One action."""
    return (x, y, z, roll, pitch, yaw, gripper)
