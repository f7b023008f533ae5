"""What the hand was told, and what it may be told next: hysteresis, and a shortest time between two changes."""

from __future__ import annotations

from dataclasses import dataclass, replace

from openvla_ros.safety.limits import Limits
from openvla_ros.safety.watchdogs import NS


def gripper_command(wanted: float, present: float, limits: Limits) -> float:
    """The opening to command, 0 or 1: hysteresis keeps a policy's noise from opening and closing the hand."""
    if wanted < limits.close_below:
        return 0.0
    if wanted > limits.open_above:
        return 1.0
    return 1.0 if present >= 0.5 else 0.0


@dataclass(frozen=True)
class Hand:
    """The newest command to the hand."""

    opening: float | None = None  # 0 or 1; None: none yet, or what it was told is not known to hold any more
    told_ns: int | None = None  # when it was told something last

    def forget(self) -> Hand:
        """The robot was restarted, or somebody else had it: whatever comes next is sent, though not too soon."""
        return replace(self, opening=None)

    def command(
        self, asked: float, measured: float | None, now_ns: int, limits: Limits
    ) -> tuple[float | None, tuple[str, ...]]:
        """The opening to tell it now, None for nothing, and `gripper_rate` when it is too soon to tell it anything.

        asked: by the policy, 0 … 1; measured: likewise, None when the robot has not said; now_ns: as `told_ns`.
        """
        present = self.opening if self.opening is not None else measured
        wanted = gripper_command(asked, 1.0 if present is None else present, limits)
        if wanted == self.opening:
            return None, ()
        soon = self.told_ns is not None and 0.0 <= (now_ns - self.told_ns) / NS < limits.gripper_interval
        return (None, ("gripper_rate",)) if soon else (wanted, ())
