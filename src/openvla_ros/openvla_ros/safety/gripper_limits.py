"""Limits on the gripper's commands: hysteresis, and a shortest time between two changes."""

from __future__ import annotations

from dataclasses import dataclass, replace

from openvla_ros.safety.limits import Limits
from openvla_ros.safety.watchdogs import NS


def gripper_command(wanted: float, present: float, limits: Limits) -> float:
    """The opening to command, 0 or 1: hysteresis keeps a policy's noise from switching the gripper."""
    if wanted < limits.close_below:
        return 0.0
    if wanted > limits.open_above:
        return 1.0
    return 1.0 if present >= 0.5 else 0.0


@dataclass(frozen=True)
class GripperLimiter:
    """The newest command to the gripper.

    Attributes:
        opening: 0 or 1; None if there is none yet, or if the newest is not known to hold any more.
        commanded_ns: Time of the newest command [ns].
    """

    opening: float | None = None
    commanded_ns: int | None = None

    def clear(self) -> GripperLimiter:
        """Without an opening: the next one asked for is commanded, though not before the interval is over."""
        return replace(self, opening=None)

    def command(
        self, asked: float, measured: float | None, now_ns: int, limits: Limits
    ) -> tuple[float | None, tuple[str, ...]]:
        """The opening to command now.

        Args:
            asked: Opening that the policy asks for, 0 … 1.
            measured: Measured opening, 0 … 1; None if there is no measurement.
            now_ns: Time on the clock of `commanded_ns` [ns].
            limits: Hysteresis and shortest interval.

        Returns:
            The opening, None if there is nothing to command; and `gripper_rate` if the last command is too recent.
        """
        present = self.opening if self.opening is not None else measured
        wanted = gripper_command(asked, 1.0 if present is None else present, limits)
        if wanted == self.opening:
            return None, ()
        recent = self.commanded_ns is not None and 0.0 <= (now_ns - self.commanded_ns) / NS < limits.gripper_interval
        return (None, ("gripper_rate",)) if recent else (wanted, ())
