"""The stream of targets: one path after the other, in whole steps of a period, never outside the limits.

Blocking control goes from rest to rest on straight paths that `reachable` found to be free: braking stays on them. In
streaming control the target turns in motion, so each step is taken only if a way to rest from there is free; otherwise
the target brakes on the way that was found before. Time here is the motion clock's [ns].
"""

from __future__ import annotations

from openvla_ros.control.motion import MinimumJerk, Path, Target
from openvla_ros.control.trajectory import StopTrajectory, Trajectory, TrajectoryError, blend, brake, stop_at
from openvla_ros.geometry import Pose, Vector, conjugate, exp, log, multiply
from openvla_ros.safety.limits import Limits
from openvla_ros.safety.watchdogs import NS
from openvla_ros.safety.zones import clamp, crossed, outside

MARGIN = 1e-4  # [m, rad] distance that streaming keeps from the borders of zones: more than a curve leaves its chord
LOOK_AHEAD = 0.005  # [s] shortest time between two checked points of a way to rest
END = 1e-9  # [s]


class TargetStream:
    """The newest target, the path it is on, and when the next one is due."""

    def __init__(self, limits: Limits, period: float, blocking: bool) -> None:
        """Begin without a target.

        Args:
            limits: Zones and bounds of the motion.
            period: Time between two targets [s].
            blocking: Whether paths go from rest to rest.
        """
        self.target: Target | None = None  # the newest; None: the next motion starts at the measured pose
        self.braking = False
        self._limits, self._period, self._blocking = limits, period, blocking
        self._period_ns = round(period * NS)
        self._path: Path | None = None
        self._t = 0.0  # [s] on the path
        self._sent_ns = 0  # time of the newest target

    @property
    def busy(self) -> bool:
        """Whether targets are left to send."""
        return self._path is not None

    @property
    def moving(self) -> bool:
        """Whether the newest target was in motion."""
        return self.target is not None and self.target.moving

    @property
    def margin(self) -> float:
        """Distance that goals keep from the borders of zones [m, rad]."""
        return 0.0 if self._blocking else 2 * MARGIN

    # ---- paths -----------------------------------------------------------------------------------

    def anchor(self, pose: Pose, at_ns: int) -> Pose:
        """Start at a measured pose, or at the nearest allowed one, which is returned."""
        pose, _ = clamp(pose, self._limits.zones, self.margin)
        self.target, self._sent_ns = Target(pose), at_ns - self._period_ns
        return pose

    def go(self, goal: Pose, period: float) -> float:
        """Start a path to an allowed goal.

        Streaming passes the goal at the action's mean speed if there is room behind it to stop.

        Args:
            goal: Pose to reach, base frame.
            period: Time to get there [s]; 0: as fast as the limits allow, and to stay.

        Returns:
            Duration of the path [s].

        Raises:
            TrajectoryError: No trajectory was found; the present path continues.
        """
        assert self.target is not None
        limits, at = self._limits, self.target
        path: Path
        if self._blocking:
            path = MinimumJerk.plan(at.pose, goal, period, limits.move, limits.turn)
        else:
            passes = period > 0.0 and self._room_behind(at.pose, goal, period)
            path = (blend if passes else stop_at)(at, goal, period, limits.move, limits.turn)
        self._path, self._t, self.braking = path, 0.0, False
        return path.duration

    def _room_behind(self, start: Pose, goal: Pose, period: float) -> bool:
        """Whether the path beyond `goal`, at the mean speed of the path there, is free for as long as a stop takes."""
        share, zones = self._limits.stop_time / period, self._limits.zones
        a, b = start.position, goal.position
        c: Vector = (b[0] + share * (b[0] - a[0]), b[1] + share * (b[1] - a[1]), b[2] + share * (b[2] - a[2]))
        turn = log(multiply(goal.quaternion, conjugate(start.quaternion)))
        on = exp((share * turn[0], share * turn[1], share * turn[2]))
        beyond = Pose.of(c, multiply(on, goal.quaternion))
        return not outside(beyond, zones, 2 * MARGIN) and not crossed(b, c, zones)

    def brake(self) -> str:
        """Come to rest within the braking limits; '' or why the target has to stop at once instead."""
        path, self._path = self._path, None
        if not self.moving:
            return ""
        assert self.target is not None
        limits = self._limits
        try:
            if isinstance(path, MinimumJerk):
                self._path = StopTrajectory(path, self._t, limits.braking(limits.move), limits.braking(limits.turn))
            else:
                self._path = self._way_to_rest(self.target)
            self._t, self.braking = 0.0, True
        except TrajectoryError as error:
            return str(error)
        return ""

    def rest(self) -> None:
        """End the path and drop the target."""
        self._path = self.target = None
        self.braking = False

    # ---- step by step ----------------------------------------------------------------------------

    def catch_up(self, at_ns: int, most: int) -> None:
        """Give up what is more than `most` steps late: the motion is delayed then, not faster."""
        late = at_ns - self._sent_ns
        if not -self._period_ns <= late <= 3600 * NS:
            self._sent_ns = at_ns - self._period_ns  # the clock was set: take one step
        elif late > most * self._period_ns + self._period_ns // 2:
            self._sent_ns = at_ns - most * self._period_ns

    def due(self, at_ns: int) -> bool:
        """Whether the next target is due (rounded to whole steps, so that a timer's jitter adds no speed)."""
        return self._path is not None and at_ns - self._sent_ns >= self._period_ns // 2

    def step(self, at_ns: int) -> tuple[Target, int]:
        """The next target, and by how much it is late at `at_ns` [ns; negative: early]."""
        assert self._path is not None
        self._t += self._period
        self._sent_ns += self._period_ns
        self.target = self._path.at(self._t)
        if self._t >= self._path.duration - END:
            self._path = None
        return self.target, at_ns - self._sent_ns

    def safe_ahead(self) -> bool:
        """Whether the next target is allowed, and every point of the shortest way to rest from there."""
        if self._blocking or self.braking or self._path is None or self.target is None:
            return True  # on a way that was checked before
        zones, target = self._limits.zones, self._path.at(self._t + self._period)
        here = target.pose.position
        if outside(target.pose, zones, MARGIN / 2) or crossed(self.target.pose.position, here, zones):
            return False
        if self._far_from_all(here):
            return True
        try:
            trajectory = self._way_to_rest(target)
        except TrajectoryError:
            return False
        step, t = max(LOOK_AHEAD, self._period), 0.0
        while t < trajectory.duration:
            t += step
            pose = trajectory.at(t).pose
            if outside(pose, zones, MARGIN) or crossed(here, pose.position, zones):
                return False
            here = pose.position
        return True

    def _far_from_all(self, p: Vector) -> bool:
        """Whether no way to rest can reach a border, however it bends: saves the search, which matters at 1000 Hz."""
        zones, reach = self._limits.zones, self._limits.move.speed * self._limits.stop_time
        inside = all(low + reach < v < high - reach for v, low, high in zip(p, zones.low, zones.high, strict=True))
        return zones.cone.open and inside and not any(box.contains(p, reach) for box in zones.keep_out)

    def _way_to_rest(self, target: Target) -> Trajectory:
        limits = self._limits
        return brake(target, limits.braking(limits.move), limits.braking(limits.turn))
