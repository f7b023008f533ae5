"""The operator's permission to move: a switch, and if configured a button that must be held."""

from __future__ import annotations

from dataclasses import dataclass, replace

from openvla_ros.safety.watchdogs import NS, Now

SWITCH, DEADMAN, JOYSTICK = "switch", "deadman", "joystick"
MODES = (SWITCH, DEADMAN, JOYSTICK)


@dataclass(frozen=True)
class PermissionConfig:
    """What permits motion."""

    mode: str = SWITCH  # switch: the switch alone; deadman, joystick: the button must be held as well
    timeout: float = 0.5  # [s] longest silence of a held button; after that it counts as released
    e_stop_timeout: float = 0.0  # [s] longest silence of the emergency stop's topic; 0: no limit

    def __post_init__(self) -> None:
        """Check mode and time-outs.

        Raises:
            ValueError: The mode is unknown, or a time-out is out of range.
        """
        if self.mode not in MODES:
            raise ValueError(f"enable mode '{self.mode}' is unknown; choices: {', '.join(MODES)}")
        if not 0.0 < self.timeout < 60.0 or not 0.0 <= self.e_stop_timeout < 60.0:
            raise ValueError(f"time-outs of enable and e_stop must be under 60 s, not {self}")


@dataclass(frozen=True)
class Permission:
    """State of the permission; at the start motion is not permitted."""

    switched_on: bool = False
    held: bool = False
    held_at: Now | None = None
    e_stop_at: Now | None = None  # last message of the emergency stop, pressed or not

    def hold(self, held: bool, now: Now) -> Permission:
        """With a report of the button, held or released."""
        return replace(self, held=held, held_at=now)

    def missing(self, config: PermissionConfig, now: Now) -> str:
        """Why motion is not permitted, in one line; '' if it is. Silence is measured on the steady clock."""
        if not self.switched_on:
            return "not enabled"
        if config.e_stop_timeout > 0.0 and _silent(self.e_stop_at, now) > config.e_stop_timeout:
            return f"no message on e_stop for {config.e_stop_timeout:g} s: is the emergency stop connected?"
        if config.mode == SWITCH:
            return ""
        if _silent(self.held_at, now) > config.timeout:
            return f"no message of the {config.mode}'s button for {config.timeout:g} s"
        return "" if self.held else f"the {config.mode}'s button is not held"


def _silent(at: Now | None, now: Now) -> float:
    return float("inf") if at is None else (now.steady - at.steady) / NS
