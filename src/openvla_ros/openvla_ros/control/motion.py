"""One action on its way: a timed path from the commanded pose to the target, and when it counts as executed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

from openvla_ros.geometry import Bounds, Pose, Vector, angle, conjugate, distance, interpolate, log, multiply

STILL: Vector = (0.0, 0.0, 0.0)
# Highest speed, acceleration and jerk of the minimum-jerk profile over a unit way in unit time.
PEAKS = (1.875, 5.7735027, 60.0)


@dataclass(frozen=True)
class Target:
    """The target at one moment: pose, and its first two derivatives along the axes of the base."""

    pose: Pose
    velocity: Vector = STILL  # [m/s]
    acceleration: Vector = STILL  # [m/s²]
    turn: Vector = STILL  # angular velocity [rad/s]
    turn_acceleration: Vector = STILL  # [rad/s²]

    @property
    def moving(self) -> bool:
        """Whether it has any speed or acceleration left."""
        return any((*self.velocity, *self.turn, *self.acceleration, *self.turn_acceleration))


class Path(Protocol):
    """A timed way of the target."""

    @property
    def duration(self) -> float:
        """How long it takes [s]."""
        ...

    def at(self, t: float) -> Target:
        """Where the target is `t` [s] after the start; from `duration` on as it passed the end."""
        ...


@dataclass(frozen=True)
class MinimumJerk:
    """A straight way, turning about one axis, at rest at both ends: s(τ) = 10τ³ − 15τ⁴ + 6τ⁵ (Flash & Hogan, 1985)."""

    start: Pose
    goal: Pose
    duration: float

    @classmethod
    def plan(cls, start: Pose, goal: Pose, period: float, move: Bounds, turn: Bounds) -> MinimumJerk:
        """The way that takes `period` [s], or as long as the bounds on speed, acceleration and jerk ask for."""
        duration = period
        for way, bounds in ((distance(start, goal), move), (angle(start, goal), turn)):
            v, a, j = PEAKS
            duration = max(
                duration,
                v * way / bounds.speed,
                (a * way / bounds.acceleration) ** (1 / 2),
                (j * way / bounds.jerk) ** (1 / 3),
            )
        return cls(start, goal, duration)

    def at(self, t: float) -> Target:
        """Where the target is; at the goal's very numbers from `duration` on."""
        return Target(self.goal) if t >= self.duration else self.point(*self.progress(t))

    def progress(self, t: float) -> tuple[float, float, float]:
        """The share of the way at `t` [s] before the end, and its first two derivatives [1/s, 1/s²]."""
        s = max(0.0, t / self.duration)
        share = s * s * s * (10.0 + s * (6.0 * s - 15.0))
        rate = 30.0 * s * s * (1.0 - s) ** 2 / self.duration
        growth = 60.0 * s * (1.0 - s) * (1.0 - 2.0 * s) / self.duration**2
        return share, rate, growth

    def point(self, share: float, rate: float, growth: float) -> Target:
        """The target at a share of the way, where that share has these derivatives [1/s, 1/s²]."""
        a, b = self.start.position, self.goal.position
        way: Vector = (b[0] - a[0], b[1] - a[1], b[2] - a[2])
        turn = log(multiply(self.goal.quaternion, conjugate(self.start.quaternion)))
        return Target(
            interpolate(self.start, self.goal, share), _times(way, rate), _times(way, growth),
            _times(turn, rate), _times(turn, growth),
        )  # fmt: skip


def _times(v: Vector, k: float) -> Vector:
    return (v[0] * k, v[1] * k, v[2] * k)


@dataclass(frozen=True)
class ArrivalConfig:
    """When an action counts as executed, and how long the robot may take to get there."""

    position: float = 0.005  # [m]
    rotation: float = 0.03  # [rad]
    still_speed: float = 0.01  # [m/s] slower for still_time is standing: blocked, or as near as it gets
    still_time: float = 0.1  # [s]
    gripper: float = 0.03  # [1] opening reached
    gripper_speed: float = 0.05  # [1/s] slower than this for still_time counts as standing: it holds something
    gripper_delay: float = 0.15  # [s] after the command, before standing still means anything
    time_limit: float = 1.5  # [s] after the end of the planned motion


@dataclass(frozen=True)
class Arrival:
    """What is known about the robot since a motion began; `seen` folds each measurement in."""

    goal: Pose
    start_ns: int
    duration: float  # [s] planned
    opening: float | None  # gripper command sent with this motion; None = unchanged
    reference: Pose | None = None  # where the arm was when it was last seen to move
    reference_ns: int = 0
    arm: bool = False
    gripper: bool = False
    gripper_reference: float | None = None
    gripper_reference_ns: int = 0

    def _since(self, stamp_ns: int) -> float:
        return (stamp_ns - self.start_ns) * 1e-9

    def seen(self, config: ArrivalConfig, pose: Pose, stamp_ns: int) -> Arrival:
        """Fold in one measured pose."""
        if self._since(stamp_ns) < self.duration:
            return self
        if distance(pose, self.goal) <= config.position and angle(pose, self.goal) <= config.rotation:
            return replace(self, arm=True)
        moved = config.still_speed * config.still_time
        if self.reference is None or distance(pose, self.reference) > moved or angle(pose, self.reference) > 5 * moved:
            return replace(self, reference=pose, reference_ns=stamp_ns, arm=False)
        return replace(self, arm=(stamp_ns - self.reference_ns) * 1e-9 >= config.still_time)

    def gripper_seen(self, config: ArrivalConfig, opening: float, stamp_ns: int) -> Arrival:
        """Fold in one measured gripper opening."""
        if self.opening is None or abs(opening - self.opening) <= config.gripper:
            return replace(self, gripper=True)
        if self._since(stamp_ns) < config.gripper_delay:
            return self
        moved = config.gripper_speed * config.still_time
        if self.gripper_reference is None or abs(opening - self.gripper_reference) > moved:
            return replace(self, gripper_reference=opening, gripper_reference_ns=stamp_ns, gripper=False)
        return replace(self, gripper=(stamp_ns - self.gripper_reference_ns) * 1e-9 >= config.still_time)

    def done(self, config: ArrivalConfig, now_ns: int) -> tuple[bool, str]:
        """Whether the action is executed, and, when only the time limit says so, what was still missing."""
        if self.arm and (self.gripper or self.opening is None):
            return True, ""
        late = self._since(now_ns) - self.duration
        if late < config.time_limit:
            return False, ""
        missing = [
            what for what, there in (("arm", self.arm), ("gripper", self.gripper or self.opening is None)) if not there
        ]
        return True, f"time limit: {' and '.join(missing)} still moving {config.time_limit:g} s after the motion's end"
