"""One action on its way: a timed path from the commanded pose to the target, and when it counts as executed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from openvla_ros.robots.target_pose import Pose, angle, distance, interpolate

PROFILES: Mapping[str, tuple[Callable[[float], float], float]] = {
    # name -> share of the way after a share of the time, and its peak speed over its mean speed
    "minimum_jerk": (lambda s: s * s * s * (10.0 + s * (6.0 * s - 15.0)), 1.875),
    "linear": (lambda s: s, 1.0),
}


@dataclass(frozen=True)
class Motion:
    """A straight way from start to goal [s, ns]: at rest at both ends (minimum_jerk), or at even speed (linear)."""

    start: Pose
    goal: Pose
    start_ns: int
    duration: float
    profile: str = "minimum_jerk"

    def at(self, now_ns: int) -> Pose:
        """Where the target is at `now_ns`: the start before the motion, the goal after it."""
        share = (now_ns - self.start_ns) * 1e-9 / self.duration if self.duration > 0 else 1.0
        return (
            self.goal
            if share >= 1.0
            else interpolate(self.start, self.goal, PROFILES[self.profile][0](max(0.0, share)))
        )

    def over(self, now_ns: int) -> bool:
        """Whether the target has reached the goal."""
        return (now_ns - self.start_ns) * 1e-9 >= self.duration


def plan(
    start: Pose, goal: Pose, now_ns: int, period: float, max_speed: float, max_turn: float, profile: str
) -> Motion:
    """The motion that takes `period` [s], or as long as the speed limits [m/s, rad/s] ask for."""
    peak = PROFILES[profile][1]
    duration = max(period, peak * distance(start, goal) / max_speed, peak * angle(start, goal) / max_turn)
    return Motion(start, goal, now_ns, duration, profile)


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

    motion: Motion
    opening: float | None  # gripper command sent with this motion; None = unchanged
    reference: Pose | None = None  # where the arm was when it was last seen to move
    reference_ns: int = 0
    arm: bool = False
    gripper: bool = False
    gripper_reference: float | None = None
    gripper_reference_ns: int = 0

    def seen(self, config: ArrivalConfig, pose: Pose, stamp_ns: int) -> Arrival:
        """Fold in one measured pose."""
        if not self.motion.over(stamp_ns):
            return self
        goal = self.motion.goal
        if distance(pose, goal) <= config.position and angle(pose, goal) <= config.rotation:
            return replace(self, arm=True)
        moved = config.still_speed * config.still_time
        if self.reference is None or distance(pose, self.reference) > moved or angle(pose, self.reference) > 5 * moved:
            return replace(self, reference=pose, reference_ns=stamp_ns, arm=False)
        return replace(self, arm=(stamp_ns - self.reference_ns) * 1e-9 >= config.still_time)

    def gripper_seen(self, config: ArrivalConfig, opening: float, stamp_ns: int) -> Arrival:
        """Fold in one measured gripper opening."""
        if self.opening is None or abs(opening - self.opening) <= config.gripper:
            return replace(self, gripper=True)
        if (stamp_ns - self.motion.start_ns) * 1e-9 < config.gripper_delay:
            return self
        moved = config.gripper_speed * config.still_time
        if self.gripper_reference is None or abs(opening - self.gripper_reference) > moved:
            return replace(self, gripper_reference=opening, gripper_reference_ns=stamp_ns, gripper=False)
        return replace(self, gripper=(stamp_ns - self.gripper_reference_ns) * 1e-9 >= config.still_time)

    def done(self, config: ArrivalConfig, now_ns: int) -> tuple[bool, str]:
        """Whether the action is executed, and, when only the time limit says so, what was still missing."""
        if self.arm and (self.gripper or self.opening is None):
            return True, ""
        late = (now_ns - self.motion.start_ns) * 1e-9 - self.motion.duration
        if late < config.time_limit:
            return False, ""
        missing = [
            what for what, there in (("arm", self.arm), ("gripper", self.gripper or self.opening is None)) if not there
        ]
        return True, f"time limit: {' and '.join(missing)} still moving {config.time_limit:g} s after the motion's end"
