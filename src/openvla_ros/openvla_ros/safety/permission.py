"""The operator's permission to move: a switch, and where it is asked for a hand on a button that must stay there."""

from __future__ import annotations

from dataclasses import dataclass, replace

from openvla_ros.safety.watchdogs import NS, Now

SWITCH, DEADMAN, JOYSTICK = "switch", "deadman", "joystick"
MODES = (SWITCH, DEADMAN, JOYSTICK)


@dataclass(frozen=True)
class PermissionConfig:
    """What permits motion."""

    mode: str = SWITCH  # switch: once is enough; deadman, joystick: the button must be held as well
    timeout: float = 0.5  # [s] a held button that is not heard of for longer counts as let go
    e_stop_timeout: float = 0.0  # [s] longest silence of the emergency stop's topic; 0 = it may be silent

    def __post_init__(self) -> None:
        """Unknown modes and endless time-outs are refused when they are made."""
        if self.mode not in MODES:
            raise ValueError(f"enable mode '{self.mode}' is unknown; choices: {', '.join(MODES)}")
        if not 0.0 < self.timeout < 60.0 or not 0.0 <= self.e_stop_timeout < 60.0:
            raise ValueError(f"time-outs of enable and e_stop must be under 60 s, not {self}")


@dataclass(frozen=True)
class Permission:
    """What is known about it. Nothing is permitted at the start."""

    switched_on: bool = False
    held: bool = False
    held_at: Now | None = None
    e_stop_at: Now | None = None  # when the emergency stop was heard of last, pressed or not

    def hold(self, held: bool, now: Now) -> Permission:
        """The button was reported held or let go."""
        return replace(self, held=held, held_at=now)

    def missing(self, config: PermissionConfig, now: Now) -> str:
        """Why motion is not permitted, in one line; '' when it is. Silence counts on the steady clock."""
        if not self.switched_on:
            return "not enabled"
        if config.e_stop_timeout > 0.0 and _silent(self.e_stop_at, now) > config.e_stop_timeout:
            return f"e_stop was not heard for {config.e_stop_timeout:g} s: is the emergency stop connected?"
        if config.mode == SWITCH:
            return ""
        if _silent(self.held_at, now) > config.timeout:
            return f"the {config.mode}'s button was not heard for {config.timeout:g} s"
        return "" if self.held else f"the {config.mode}'s button is not held"


def _silent(at: Now | None, now: Now) -> float:
    return float("inf") if at is None else (now.steady - at.steady) / NS
