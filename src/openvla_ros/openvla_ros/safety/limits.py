"""Limits on the actions of a policy: pure functions that refuse or clip, and name the limit that applied."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from openvla_ros.geometry import Bounds
from openvla_ros.safety.zones import Zones

ON_LIMIT = ("clip", "refuse")
ACTION_LENGTH = 7
AXIS = 1.0 / math.sqrt(3.0)  # bound of an axis relative to that of a vector
MIN_STOP_FACTOR = 1.75  # over √3: braking per axis is never weaker than the motion it ends


@dataclass(frozen=True)
class Limits:
    """Limits of one robot in one workcell."""

    zones: Zones  # where the end effector may be, base frame
    max_translation: float = 0.06  # [m] of an action, after scaling
    max_rotation: float = 0.35  # [rad] of each of roll, pitch, yaw of an action, after scaling
    move: Bounds = Bounds(0.5, 5.0, 100.0)  # [m/s, m/s², m/s³] of the restreamed target's position
    turn: Bounds = Bounds(2.0, 20.0, 400.0)  # [rad/s, rad/s², rad/s³] of its orientation
    stop_time: float = 0.25  # [s] longest time from the cause of a stop to rest
    stop_factor: float = 2.0  # acceleration and jerk while braking, relative to `move` and `turn`
    scale: float = 1.0  # factor on translations and rotations
    on_limit: str = "clip"  # an action over a limit is clipped (clip) or refused (refuse)
    close_below: float = 0.4  # gripper hysteresis: closes below this opening
    open_above: float = 0.6  # opens above this one, and keeps its state in between
    gripper_interval: float = 0.3  # [s] shortest time between two changes of the gripper's command

    def __post_init__(self) -> None:
        """Check the limits.

        Raises:
            ValueError: A limit is not positive and finite, or two contradict each other.
        """
        if not 0.0 <= self.close_below <= self.open_above <= 1.0:
            raise ValueError(
                f"gripper hysteresis: close_below {self.close_below} must not exceed open_above "
                f"{self.open_above}, both 0 … 1"
            )
        positive = (self.max_translation, self.max_rotation, self.stop_time, self.scale)
        if not all(math.isfinite(v) and v > 0 for v in positive):
            raise ValueError(f"caps, stop time and scale must be finite and over 0, not {positive}")
        if not 0.0 <= self.gripper_interval < math.inf:
            raise ValueError(f"gripper interval is {self.gripper_interval} s; it must be finite and not negative")
        if self.on_limit not in ON_LIMIT:
            raise ValueError(f"on_limit is '{self.on_limit}'; choices: {', '.join(ON_LIMIT)}")
        if not MIN_STOP_FACTOR <= self.stop_factor < math.inf:
            raise ValueError(f"stop factor is {self.stop_factor}; it must be at least {MIN_STOP_FACTOR}")

    def braking(self, bounds: Bounds) -> Bounds:
        """Bounds of each axis while braking, so that the vector stays within `stop_factor` times `bounds`."""
        k = self.stop_factor * AXIS
        return Bounds(bounds.speed, k * bounds.acceleration, k * bounds.jerk)

    def check_stop(self, period: float) -> None:
        """Check that the target comes to rest within `stop_time` from the fastest allowed motion.

        Args:
            period: Time between two targets [s]: one may pass before the stop is noticed, one more until it is sent.

        Raises:
            ValueError: It takes longer.
        """
        for what, bounds in (("move", self.move), ("turn", self.turn)):
            self._check_stop(brake_time(bounds, self.braking(bounds)) + 2 * period, f"'{what}' {bounds}")
        both = mixed_brake_time(self.move, self.turn, self.braking(self.move), self.braking(self.turn))
        self._check_stop(both + 2 * period, f"'move' {self.move} and 'turn' {self.turn} at once")

    def _check_stop(self, needed: float, what: str) -> None:
        if needed > self.stop_time:
            raise ValueError(
                f"stop.time is {self.stop_time:g} s, but from the limits on {what} braking {self.stop_factor:g} times "
                f"as hard takes up to {needed:.3f} s; raise stop.time or stop.factor, or lower the speed"
            )


def brake_time(motion: Bounds, braking: Bounds) -> float:
    """Longest time [s] to come to rest: from the highest speed, at the highest acceleration."""
    a, j, v = braking.acceleration, braking.jerk, motion.speed
    slow = v / a + a / j if v >= a * a / j else 2.0 * math.sqrt(v / j)
    return motion.acceleration / j + slow


def mixed_brake_time(a: Bounds, b: Bounds, braking_a: Bounds, braking_b: Bounds) -> float:
    """A bound on `brake_time` of a path that translates and rotates in fixed shares, whatever the shares.

    The deceleration is bounded by one of the two and the jerk by the other. With v, A, J of the path as a whole, A and
    J the smaller of the two's: v / A is at most v / A of the one that bounds A, A / J and the run-up at most those of
    the one that bounds J; and 2 √(v / J) never exceeds v / A + A / J.

    Args:
        a: Bounds of the motion of one of the two.
        b: Bounds of the motion of the other.
        braking_a: Bounds of `a` while braking.
        braking_b: Bounds of `b` while braking.

    Returns:
        The bound [s].
    """
    pairs = ((a, braking_a, b, braking_b), (b, braking_b, a, braking_a))
    return max(
        x.speed / braking_x.acceleration + (braking_y.acceleration + y.acceleration) / braking_y.jerk
        for x, braking_x, y, braking_y in pairs
    )


def malformed(action: Sequence[float]) -> str:
    """Why values are not an action; '' if they are one."""
    if len(action) != ACTION_LENGTH:
        return f"action has {len(action)} values, not {ACTION_LENGTH}"
    bad = [i for i, v in enumerate(action) if not math.isfinite(v)]
    return f"action value {bad[0]} is {action[bad[0]]}" if bad else ""


def limit_action(action: Sequence[float], limits: Limits) -> tuple[tuple[float, ...], tuple[str, ...]]:
    """Scale a well-formed action, then cap it.

    A translation over its cap keeps its direction; a rotation is scaled as a whole until no angle exceeds the cap.

    Args:
        action: 3 deltas [m], 3 rotations [rad], gripper opening.
        limits: Scale and caps.

    Returns:
        The limited action, and the names of the limits that cut it.
    """
    names: list[str] = []
    move = [v * limits.scale for v in action[:3]]
    turn = [v * limits.scale for v in action[3:6]]
    length = math.hypot(*move)
    if length > limits.max_translation:
        move = _scaled(move, limits.max_translation / length, limits.max_translation)
        names.append("max_translation")
    largest = max(abs(v) for v in turn)
    if largest > limits.max_rotation:
        turn = _scaled(turn, limits.max_rotation / largest, limits.max_rotation)
        names.append("max_rotation")
    gripper = min(1.0, max(0.0, action[6]))
    return (*move, *turn, gripper), tuple(names)


def _scaled(values: list[float], factor: float, cap: float) -> list[float]:
    if factor > 0.0 and all(math.isfinite(v) for v in values):
        return [min(cap, max(-cap, v * factor)) for v in values]
    return [0.0 for _ in values]  # it overflowed: there is no direction to keep
