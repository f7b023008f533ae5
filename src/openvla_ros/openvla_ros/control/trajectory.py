"""Trajectories of the target between two actions and while it brakes, within bounds on speed, acceleration and jerk.

Computed by Ruckig (Berscheid & Kröger, "Jerk-limited real-time trajectory generation with arbitrary target states",
RSS 2021) for six axes at once: the position, and the rotation vector from the present orientation.
Bounds on the length of a vector become bounds of 1/√3 of it on each axis.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ruckig import ControlInterface, InputParameter, Result, Ruckig, Synchronization, Trajectory as RuckigTrajectory

from openvla_ros.control.motion import STILL, MinimumJerk, Target
from openvla_ros.geometry import Bounds, Pose, Quaternion, Vector, angle, conjugate, cross, distance, exp, log, multiply

AXIS = 1.0 / math.sqrt(3.0)
TURN_RESERVE = 0.97  # a rotation vector's second derivative is the angular acceleration only up to (angle·speed²)/6
END = 1e-9  # [s]


class TrajectoryError(RuntimeError):
    """Ruckig found no trajectory."""


class Trajectory:
    """A trajectory of the target by Ruckig."""

    def __init__(self, trajectory: RuckigTrajectory, start: Quaternion, duration: float) -> None:
        self._trajectory, self._start = trajectory, start
        self.duration = duration  # [s]

    def at(self, t: float) -> Target:
        """The target at `t` [s]; beyond the end it continues with the velocity it has there."""
        p, v, a = self._trajectory.at_time(max(t, 0.0))
        r: Vector = (p[3], p[4], p[5])
        pose = Pose.of(p[:3], multiply(exp(r), self._start))
        if t >= self.duration - END and max(map(abs, v)) < 1e-9:
            return Target(pose)
        return Target(pose, (v[0], v[1], v[2]), (a[0], a[1], a[2]), _carry(r, v[3:]), _carry(r, a[3:]))


class StopTrajectory:
    """Comes to rest on a straight path, before its end.

    What brakes is the share of the path, and all six axes with it. (Six axes that brake each by itself leave the path,
    and stretched to the same time some pass its end.)
    """

    def __init__(self, path: MinimumJerk, t: float, move: Bounds, turn: Bounds) -> None:
        """Brake from a point of the path on.

        Args:
            path: The path that the target is on.
            t: Time on the path [s].
            move: Bounds on the translation [m/s², m/s³], at least those of the path itself.
            turn: Bounds on the rotation [rad/s², rad/s³], likewise.
        """
        self._path = path
        spans = ((distance(path.start, path.goal), move), (angle(path.start, path.goal), turn))
        # In metres (or radians, if it turns more): shares of a very short path are badly conditioned.
        self._span = max(span for span, _ in spans)
        request = InputParameter(1)
        request.control_interface = ControlInterface.Velocity
        position, velocity, acceleration = (self._span * x for x in path.progress(t))
        request.current_position, request.current_velocity = [position], [velocity]
        request.current_acceleration, request.target_velocity, request.target_acceleration = (
            [acceleration],
            [0.0],
            [0.0],
        )
        request.max_velocity = [max(bounds.speed for _, bounds in spans)]  # not used, but required
        scales = [(self._span / span, bounds) for span, bounds in spans if span > 0.0]
        request.max_acceleration = [min(scale * bounds.acceleration for scale, bounds in scales)]
        request.max_jerk = [min(scale * bounds.jerk for scale, bounds in scales)]
        self._trajectory = _calculate(request, f"{t:g} s of {path}")
        self.duration = float(self._trajectory.duration)  # [s]

    def at(self, t: float) -> Target:
        """The target at `t` [s]; at rest from `duration` on."""
        moved = self._trajectory.at_time(min(max(t, 0.0), self.duration))
        share, rate, growth = (one[0] / self._span for one in moved)
        return self._path.point(min(share, 1.0), *((0.0, 0.0) if t >= self.duration - END else (rate, growth)))


def brake(now: Target, move: Bounds, turn: Bounds) -> Trajectory:
    """Come to rest in the shortest time, each axis within `move` [m/s², m/s³] and `turn` [rad/s², rad/s³]."""
    return _reach(now, [0.0] * 6, move, turn, None)


def blend(now: Target, goal: Pose, period: float, move: Bounds, turn: Bounds) -> Trajectory:
    """Continue with the mean velocity that leads from the present target to `goal`.

    The velocity is taken up smoothly and kept to the end, so that the next action continues from there without a stop.
    The distance lost while the velocity changes is small, and made up for by the next change.

    Args:
        now: The present target.
        goal: Pose to pass, base frame.
        period: Duration of the action [s]; longer if the speeds ask for it.
        move: Bounds on the length of the translation's derivatives [m/s, m/s², m/s³].
        turn: Bounds on the length of the rotation's derivatives [rad/s, rad/s², rad/s³].

    Returns:
        The trajectory, of at least `period`.
    """
    rotation = log(multiply(goal.quaternion, conjugate(now.pose.quaternion)))
    path = [b - a for a, b in zip(now.pose.position, goal.position, strict=True)] + list(rotation)
    move, turn = move.scaled(AXIS), turn.scaled(AXIS * TURN_RESERVE)
    most = [move.speed] * 3 + [turn.speed] * 3
    duration = max(period, *(abs(d) / v for d, v in zip(path, most, strict=True)))
    return _reach(now, [d / duration for d in path], move, turn, duration)


def stop_at(now: Target, goal: Pose, period: float, move: Bounds, turn: Bounds) -> Trajectory:
    """Come to rest at `goal`, not much faster than in `period` [s]; 0: as fast as the bounds allow (as in `blend`)."""
    request = _input(now, move.scaled(AXIS), turn.scaled(AXIS * TURN_RESERVE))
    rotation = log(multiply(goal.quaternion, conjugate(now.pose.quaternion)))
    request.target_position = [*goal.position, *rotation]
    if period > 0.0:
        path = [b - a for a, b in zip(request.current_position, request.target_position, strict=True)]
        request.max_velocity = [
            min(most, max(1.5 * abs(d) / period, 0.05 * most))
            for d, most in zip(path, request.max_velocity, strict=True)
        ]  # fmt: skip
    return _solve(request, now, None)


def _reach(now: Target, velocity: Sequence[float], move: Bounds, turn: Bounds, duration: float | None) -> Trajectory:
    """Take up a velocity and angular velocity (6,), each axis within the bounds."""
    request = _input(now, move, turn)
    request.control_interface = ControlInterface.Velocity
    request.target_velocity = list(velocity)
    return _solve(request, now, duration)


def _input(now: Target, move: Bounds, turn: Bounds) -> InputParameter:
    request = InputParameter(6)
    request.synchronization = Synchronization.Phase  # a straight path wherever the state allows one
    request.current_position = [*now.pose.position, *STILL]
    request.current_velocity = [*now.velocity, *now.turn]
    request.current_acceleration = [*now.acceleration, *now.turn_acceleration]
    request.target_velocity = request.target_acceleration = [0.0] * 6
    request.max_velocity = [move.speed] * 3 + [turn.speed] * 3
    request.max_acceleration = [move.acceleration] * 3 + [turn.acceleration] * 3
    request.max_jerk = [move.jerk] * 3 + [turn.jerk] * 3
    return request


def _solve(request: InputParameter, now: Target, duration: float | None) -> Trajectory:
    trajectory = _calculate(request, str(now))
    return Trajectory(trajectory, now.pose.quaternion, float(trajectory.duration) if duration is None else duration)


def _calculate(request: InputParameter, start: str) -> RuckigTrajectory:
    axes = len(request.current_position)
    trajectory = RuckigTrajectory(axes)
    try:
        result = Ruckig(axes).calculate(request, trajectory)
    except RuntimeError as error:
        raise TrajectoryError(f"no trajectory from {start}: {error}") from error
    if result not in (Result.Working, Result.Finished):
        raise TrajectoryError(f"no trajectory from {start}: {result}")
    return trajectory


def _carry(r: Sequence[float], rate: Sequence[float]) -> Vector:
    """Angular velocity of exp(r) while r changes by `rate`: the left Jacobian of SO(3) times `rate`."""
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
