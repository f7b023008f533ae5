"""The target between two actions and while it brakes: trajectories within bounds on speed, acceleration and jerk.

Computed by Ruckig (Berscheid & Kröger, "Jerk-limited real-time trajectory generation with arbitrary target states",
RSS 2021) for six axes at once: the position, and the rotation vector that leads from the present orientation on.
Bounds on the length of a vector become bounds of 1/√3 of it on each axis.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ruckig import ControlInterface, InputParameter, Result, Ruckig, Synchronization, Trajectory

from openvla_ros.control.motion import STILL, MinimumJerk, Target
from openvla_ros.geometry import Bounds, Pose, Quaternion, Vector, angle, conjugate, cross, distance, exp, log, multiply

AXIS = 1.0 / math.sqrt(3.0)
TURN_RESERVE = 0.97  # a rotation vector's second derivative is the angular acceleration only up to (angle·speed²)/6
END = 1e-9  # [s]


class StreamError(RuntimeError):
    """No trajectory was found."""


class Course:
    """A Ruckig trajectory of the target from one moment on."""

    def __init__(self, trajectory: Trajectory, start: Quaternion, duration: float) -> None:
        self._trajectory, self._start = trajectory, start
        self.duration = duration  # [s]

    def at(self, t: float) -> Target:
        """Where the target is; beyond the end it goes on as it passed it."""
        p, v, a = self._trajectory.at_time(max(t, 0.0))
        r: Vector = (p[3], p[4], p[5])
        pose = Pose.of(p[:3], multiply(exp(r), self._start))
        if t >= self.duration - END and max(map(abs, v)) < 1e-9:
            return Target(pose)
        return Target(pose, (v[0], v[1], v[2]), (a[0], a[1], a[2]), _carry(r, v[3:]), _carry(r, a[3:]))


class Halt:
    """To rest on a straight way, and not past its end: the share of the way is what brakes, all six axes with it.

    (Six axes that brake each by itself leave the way, and stretched to the same time some pass its end.)
    """

    def __init__(self, way: MinimumJerk, t: float, move: Bounds, turn: Bounds) -> None:
        """From `t` [s] on, within `move` [m/s², m/s³] and `turn` [rad/s², rad/s³], at least those of the way itself."""
        self._way = way
        spans = ((distance(way.start, way.goal), move), (angle(way.start, way.goal), turn))
        # In metres (or radians, where it turns more): shares of a way of almost nothing are no numbers for a solver.
        self._span = max(span for span, _ in spans)
        wish = InputParameter(1)
        wish.control_interface = ControlInterface.Velocity
        position, velocity, acceleration = (self._span * x for x in way.progress(t))
        wish.current_position, wish.current_velocity = [position], [velocity]
        wish.current_acceleration, wish.target_velocity, wish.target_acceleration = [acceleration], [0.0], [0.0]
        wish.max_velocity = [max(bounds.speed for _, bounds in spans)]  # means nothing here, but must be there
        scales = [(self._span / span, bounds) for span, bounds in spans if span > 0.0]
        wish.max_acceleration = [min(scale * bounds.acceleration for scale, bounds in scales)]
        wish.max_jerk = [min(scale * bounds.jerk for scale, bounds in scales)]
        self._trajectory = _calculate(wish, f"{t:g} s of {way}")
        self.duration = float(self._trajectory.duration)  # [s]

    def at(self, t: float) -> Target:
        """Where the target is; at rest from `duration` on."""
        moved = self._trajectory.at_time(min(max(t, 0.0), self.duration))
        share, rate, growth = (one[0] / self._span for one in moved)
        return self._way.point(min(share, 1.0), *((0.0, 0.0) if t >= self.duration - END else (rate, growth)))


def brake(now: Target, move: Bounds, turn: Bounds) -> Course:
    """To rest in the shortest time, each axis within `move` [m/s², m/s³] and `turn` [rad/s², rad/s³]."""
    return _reach(now, [0.0] * 6, move, turn, None)


def flow(now: Target, goal: Pose, period: float, move: Bounds, turn: Bounds) -> Course:
    """On with the mean velocity that leads from here to `goal` in `period` [s], or as long as the speeds ask for.

    The velocity is taken up smoothly and kept to the end: the next action goes on from there without a stop. What is
    lost while it changes is small, and made up for by the next change. move, turn: bounds on the vectors' lengths.
    """
    rotation = log(multiply(goal.quaternion, conjugate(now.pose.quaternion)))
    way = [b - a for a, b in zip(now.pose.position, goal.position, strict=True)] + list(rotation)
    move, turn = move.scaled(AXIS), turn.scaled(AXIS * TURN_RESERVE)
    most = [move.speed] * 3 + [turn.speed] * 3
    duration = max(period, *(abs(d) / v for d, v in zip(way, most, strict=True)))
    return _reach(now, [d / duration for d in way], move, turn, duration)


def settle(now: Target, goal: Pose, period: float, move: Bounds, turn: Bounds) -> Course:
    """To rest at `goal`, not much faster than it takes to be there in `period` [s]; 0: as fast as the bounds allow."""
    wish = _input(now, move.scaled(AXIS), turn.scaled(AXIS * TURN_RESERVE))
    rotation = log(multiply(goal.quaternion, conjugate(now.pose.quaternion)))
    wish.target_position = [*goal.position, *rotation]
    if period > 0.0:
        way = [b - a for a, b in zip(wish.current_position, wish.target_position, strict=True)]
        wish.max_velocity = [
            min(most, max(1.5 * abs(d) / period, 0.05 * most))
            for d, most in zip(way, wish.max_velocity, strict=True)
        ]  # fmt: skip
    return _solve(wish, now, None)


def _reach(now: Target, velocity: Sequence[float], move: Bounds, turn: Bounds, duration: float | None) -> Course:
    """To a velocity and angular velocity (6,), each axis within the bounds."""
    wish = _input(now, move, turn)
    wish.control_interface = ControlInterface.Velocity
    wish.target_velocity = list(velocity)
    return _solve(wish, now, duration)


def _input(now: Target, move: Bounds, turn: Bounds) -> InputParameter:
    wish = InputParameter(6)
    wish.synchronization = Synchronization.Phase  # a straight way wherever the state allows one
    wish.current_position = [*now.pose.position, *STILL]
    wish.current_velocity = [*now.velocity, *now.turn]
    wish.current_acceleration = [*now.acceleration, *now.turn_acceleration]
    wish.target_velocity = wish.target_acceleration = [0.0] * 6
    wish.max_velocity = [move.speed] * 3 + [turn.speed] * 3
    wish.max_acceleration = [move.acceleration] * 3 + [turn.acceleration] * 3
    wish.max_jerk = [move.jerk] * 3 + [turn.jerk] * 3
    return wish


def _solve(wish: InputParameter, now: Target, duration: float | None) -> Course:
    trajectory = _calculate(wish, str(now))
    return Course(trajectory, now.pose.quaternion, float(trajectory.duration) if duration is None else duration)


def _calculate(wish: InputParameter, start: str) -> Trajectory:
    axes = len(wish.current_position)
    trajectory = Trajectory(axes)
    try:
        result = Ruckig(axes).calculate(wish, trajectory)
    except RuntimeError as error:
        raise StreamError(f"no trajectory from {start}: {error}") from error
    if result not in (Result.Working, Result.Finished):
        raise StreamError(f"no trajectory from {start}: {result}")
    return trajectory


def _carry(r: Sequence[float], rate: Sequence[float]) -> Vector:
    """Angular velocity of exp(r) where r changes by `rate`: the left Jacobian of SO(3) times `rate`."""
    theta2 = r[0] * r[0] + r[1] * r[1] + r[2] * r[2]
    if theta2 < 1e-12:
        once, twice = 0.5, 1.0 / 6.0
    else:
        theta = math.sqrt(theta2)
        once, twice = (1.0 - math.cos(theta)) / theta2, (theta - math.sin(theta)) / (theta2 * theta)
    c = cross(r, rate)
    d = cross(r, c)
    return (
        rate[0] + once * c[0] + twice * d[0],
        rate[1] + once * c[1] + twice * d[1],
        rate[2] + once * c[2] + twice * d[2],
    )
