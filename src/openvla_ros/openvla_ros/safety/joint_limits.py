"""Limits of joints, for adapters that solve inverse kinematics themselves. A pure function of one step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class JointLimits:
    """Ranges and speeds of an arm's joints, in the order of its commands [rad, rad/s]."""

    names: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    speed: tuple[float, ...]
    margin: float = 0.02  # [rad] kept free at both ends of each range

    def __post_init__(self) -> None:
        """Check lengths and ranges.

        Raises:
            ValueError: The lists have different lengths, or a joint has no room to move.
        """
        if not len(self.names) == len(self.low) == len(self.high) == len(self.speed):
            raise ValueError(f"joint limits: {len(self.names)} names need as many low, high and speed values")
        for name, low, high, speed in zip(self.names, self.low, self.high, self.speed, strict=True):
            if not low + self.margin < high - self.margin or not 0.0 < speed < math.inf:
                raise ValueError(f"joint '{name}': range {low} … {high} rad, speed {speed} rad/s leave no room to move")


def limit_joints(
    wanted: Sequence[float], present: Sequence[float], step: float, limits: JointLimits
) -> tuple[tuple[float, ...], tuple[str, ...]]:
    """Limit the joint positions to command.

    A solution that asks for too much speed is slowed as a whole, so that the motion keeps its direction; a joint at
    the end of its range stops there.

    Args:
        wanted: Joint positions that the solver asks for [rad].
        present: Joint positions commanded last [rad].
        step: Time since then [s].
        limits: Ranges and speeds.

    Returns:
        The joint positions to command, and the names of the limits that cut them.

    Raises:
        ValueError: A value is not finite, or the lengths differ: the solver failed.
    """
    values = [*wanted, *present, step]
    if len(wanted) != len(limits.names) or len(present) != len(limits.names) or not all(map(math.isfinite, values)):
        raise ValueError(f"no joint positions: {list(wanted)} after {list(present)} for {', '.join(limits.names)}")
    names: list[str] = []
    inside: list[float] = []
    for name, value, low, high in zip(limits.names, wanted, limits.low, limits.high, strict=True):
        kept = min(high - limits.margin, max(low + limits.margin, value))
        if kept != value:
            names.append(f"joint_range_{name}")
        inside.append(kept)
    share = 1.0
    for name, value, now, speed in zip(limits.names, inside, present, limits.speed, strict=True):
        far = abs(value - now)
        if far > speed * max(0.0, step):
            names.append(f"joint_speed_{name}")
            share = min(share, speed * max(0.0, step) / far)
    return tuple(now + share * (value - now) for value, now in zip(inside, present, strict=True)), tuple(names)
