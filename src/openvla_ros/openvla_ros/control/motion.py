"""The motion of one action: a timed path from the commanded pose to the goal, and when it counts as executed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

from openvla_ros.geometry import Bounds, Pose, Vector, angle, conjugate, distance, interpolate, log, multiply

STILL: Vector = (0.0, 0.0, 0.0)
# Highest speed, acceleration and jerk of the minimum-jerk profile over a path of length 1 in 1 s.
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
        """Whether it has any velocity or acceleration."""
        return any((*self.velocity, *self.turn, *self.acceleration, *self.turn_acceleration))


class Path(Protocol):
    """A timed path of the target."""

    @property
    def duration(self) -> float:
        """Duration [s]."""
        ...

    def at(self, t: float) -> Target:
        """The target at `t` [s] after the start; beyond `duration` it continues with the velocity it has there."""
        ...


@dataclass(frozen=True)
class MinimumJerk:
    """A straight path, turning about one axis, at rest at both ends: s(τ) = 10τ³ − 15τ⁴ + 6τ⁵ (Flash & Hogan, 1985)."""

    start: Pose
    goal: Pose
    duration: float

    @classmethod
    def plan(cls, start: Pose, goal: Pose, period: float, move: Bounds, turn: Bounds) -> MinimumJerk:
        """The path that takes `period` [s], or as long as the bounds on speed, acceleration and jerk ask for."""
        duration = period
        for length, bounds in ((distance(start, goal), move), (angle(start, goal), turn)):
            v, a, j = PEAKS
            duration = max(
                duration,
                v * length / bounds.speed,
                (a * length / bounds.acceleration) ** (1 / 2),
                (j * length / bounds.jerk) ** (1 / 3),
            )
        return cls(start, goal, duration)

    def at(self, t: float) -> Target:
        """The target at `t` [s]; exactly at the goal from `duration` on."""
        return Target(self.goal) if t >= self.duration else self.point(*self.progress(t))

    def progress(self, t: float) -> tuple[float, float, float]:
        """The share of the path at `t` [s] before the end, and its first two derivatives [1/s, 1/s²]."""
        s = max(0.0, t / self.duration)
        share = s * s * s * (10.0 + s * (6.0 * s - 15.0))
        rate = 30.0 * s * s * (1.0 - s) ** 2 / self.duration
        growth = 60.0 * s * (1.0 - s) * (1.0 - 2.0 * s) / self.duration**2
        return share, rate, growth

    def point(self, share: float, rate: float, growth: float) -> Target:
        """The target at a share of the path, and with the share's derivatives `rate` [1/s] and `growth` [1/s²]."""
        a, b = self.start.position, self.goal.position
        move: Vector = (b[0] - a[0], b[1] - a[1], b[2] - a[2])
        turn = log(multiply(self.goal.quaternion, conjugate(self.start.quaternion)))
        return Target(
            interpolate(self.start, self.goal, share), _times(move, rate), _times(move, growth),
            _times(turn, rate), _times(turn, growth),
        )  # fmt: skip


def _times(v: Vector, k: float) -> Vector:
    return (v[0] * k, v[1] * k, v[2] * k)


@dataclass(frozen=True)
class ArrivalConfig:
    """When an action counts as executed, and how long the robot may take to get there."""

    position: float = 0.005  # [m]
    rotation: float = 0.03  # [rad]
    still_speed: float = 0.01  # [m/s] slower for still_time is at rest: blocked, or as near as it gets
    still_time: float = 0.1  # [s]
    gripper: float = 0.03  # [1] error of the opening
    gripper_speed: float = 0.05  # [1/s] slower for still_time is at rest: it holds something
    gripper_delay: float = 0.15  # [s] a gripper has to begin to move after its command
    time_limit: float = 1.5  # [s] after the end of the planned motion


@dataclass(frozen=True)
class Arrival:
    """What was measured since a motion began."""

    goal: Pose
    start_ns: int
    duration: float  # [s] planned
    opening: float | None  # gripper command sent with this motion; None = unchanged
    reference: Pose | None = None  # where the arm was when it last moved
    reference_ns: int = 0
    arm: bool = False  # the arm has arrived, or is at rest
    gripper: bool = False  # likewise the gripper
    gripper_reference: float | None = None
    gripper_reference_ns: int = 0

    def _since(self, stamp_ns: int) -> float:
        return (stamp_ns - self.start_ns) * 1e-9

    def pose_measured(self, config: ArrivalConfig, pose: Pose, stamp_ns: int) -> Arrival:
        """With one more measured pose."""
        if self._since(stamp_ns) < self.duration:
            return self
        if distance(pose, self.goal) <= config.position and angle(pose, self.goal) <= config.rotation:
            return replace(self, arm=True)
        moved = config.still_speed * config.still_time
        if self.reference is None or distance(pose, self.reference) > moved or angle(pose, self.reference) > 5 * moved:
            return replace(self, reference=pose, reference_ns=stamp_ns, arm=False)
        return replace(self, arm=(stamp_ns - self.reference_ns) * 1e-9 >= config.still_time)

    def opening_measured(self, config: ArrivalConfig, opening: float, stamp_ns: int) -> Arrival:
        """With one more measured gripper opening."""
        if self.opening is None or abs(opening - self.opening) <= config.gripper:
            return replace(self, gripper=True)
        if self._since(stamp_ns) < config.gripper_delay:
            return self
        moved = config.gripper_speed * config.still_time
        if self.gripper_reference is None or abs(opening - self.gripper_reference) > moved:
            return replace(self, gripper_reference=opening, gripper_reference_ns=stamp_ns, gripper=False)
        return replace(self, gripper=(stamp_ns - self.gripper_reference_ns) * 1e-9 >= config.still_time)

    def done(self, config: ArrivalConfig, now_ns: int) -> tuple[bool, str]:
        """Whether the action is executed; and if only the time limit ends it, what was still moving."""
        if self.arm and (self.gripper or self.opening is None):
            return True, ""
        late = self._since(now_ns) - self.duration
        if late < config.time_limit:
            return False, ""
        missing = [
            what for what, there in (("arm", self.arm), ("gripper", self.gripper or self.opening is None)) if not there
        ]
        return True, f"time limit: {' and '.join(missing)} still moving {config.time_limit:g} s after the motion's end"
