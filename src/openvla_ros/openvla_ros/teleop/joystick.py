"""Gamepads, SpaceMouses and VR controllers as sensor_msgs/Joy: axes and buttons by number, meaning by configuration."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from openvla_ros.teleop.operator_input import COMMANDS, MOTIONS, STILL, Demand, DeviceError, at, shaped

NONE = -1  # in place of an axis' or button's number


@dataclass(frozen=True)
class JoyMap:
    """Which axis and button does what; -1 = none.

    ``axes`` and ``gains`` (-1 turns an axis round): for each of :data:`MOTIONS`; ``plus``, ``minus``: buttons that
    move likewise at full speed. ``deadman``: a button to hold, -1 = the deflection itself counts as holding;
    ``clutch``: a second one to hold, if any. ``gripper_axis`` reads ``gripper_open`` when open and ``gripper_closed``
    when closed. ``commands``: name -> button.
    """

    axes: tuple[int, ...] = (NONE,) * 6
    gains: tuple[float, ...] = (1.0,) * 6
    plus: tuple[int, ...] = (NONE,) * 6
    minus: tuple[int, ...] = (NONE,) * 6
    deadman: int = NONE
    clutch: int = NONE
    slow: int = NONE
    fast: int = NONE
    gripper_axis: int = NONE
    gripper_open: float = 1.0
    gripper_closed: float = -1.0
    commands: Mapping[str, int] = field(default_factory=dict)
    dead_zone: float = 0.1
    curve: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what contradicts itself."""
        for name in ("axes", "gains", "plus", "minus"):
            if len(getattr(self, name)) != len(MOTIONS):
                raise ValueError(f"'{name}' has {len(getattr(self, name))} entries, not one for each of {MOTIONS}")
        if unknown := set(self.commands) - set(COMMANDS):
            raise ValueError(f"commands {sorted(unknown)} are unknown; choices: {', '.join(COMMANDS)}")
        if self.gripper_axis != NONE and self.gripper_open == self.gripper_closed:
            raise ValueError("'gripper_open' and 'gripper_closed' are the same reading")
        used: dict[int, str] = {}
        given = {"deadman": self.deadman, "clutch": self.clutch, "slow": self.slow, "fast": self.fast, **self.commands}
        for name, button in given.items():
            if button != NONE and button in used:
                raise ValueError(f"button {button} is both '{used[button]}' and '{name}'")
            used[button] = name

    def read(self, axes: Sequence[float], buttons: Sequence[int]) -> Demand:
        """What the operator asks for.

        Raises:
            DeviceError: an axis is not finite, or a configured axis or button does not exist.
        """
        twist = tuple(self._motion(i, axes, buttons) for i in range(len(MOTIONS)))
        held = self._down(buttons, self.deadman, "deadman") if self.deadman != NONE else twist != STILL
        if self.clutch != NONE:
            held = self._down(buttons, self.clutch, "clutch") and held
        slow, fast = self._down(buttons, self.slow, "slow"), self._down(buttons, self.fast, "fast")
        pressed = frozenset(name for name, button in self.commands.items() if self._down(buttons, button, name))
        pressed -= {"e_stop"}  # see `stop`
        speed = "slow" if slow else "fast" if fast else ""
        return Demand(twist, held, speed, self._opening(axes), pressed)

    def stop(self, buttons: Sequence[int]) -> bool:
        """Whether the emergency stop's button is down, whatever is wrong with the rest of the message."""
        button = self.commands.get("e_stop", NONE)
        return 0 <= button < len(buttons) and bool(buttons[button])

    def _motion(self, motion: int, axes: Sequence[float], buttons: Sequence[int]) -> float:
        value = 0.0
        if (number := self.axes[motion]) != NONE:
            reading = at(axes, number, "axis", "joy.axes")
            value = self.gains[motion] * shaped(reading, self.dead_zone, self.curve, f"axis {number}")
        value += self._down(buttons, self.plus[motion], "plus") - self._down(buttons, self.minus[motion], "minus")
        return min(1.0, max(-1.0, value))

    def _down(self, buttons: Sequence[int], button: int, name: str) -> bool:
        return button != NONE and bool(at(buttons, button, "button", f"joy.{name}"))

    def _opening(self, axes: Sequence[float]) -> float | None:
        if self.gripper_axis == NONE:
            return None
        reading = at(axes, self.gripper_axis, "axis", "joy.gripper_axis")
        if not math.isfinite(reading):
            raise DeviceError(f"axis {self.gripper_axis} (gripper) reads {reading}: not followed")
        share = (reading - self.gripper_closed) / (self.gripper_open - self.gripper_closed)
        return min(1.0, max(0.0, share))


def read_twist(
    linear: Sequence[float], angular: Sequence[float], full: tuple[float, float], dead_zone: float, curve: float
) -> tuple[float, ...]:
    """A Twist as shares of full speed. ``full``: linear and angular readings of a device pushed all the way.

    Raises:
        DeviceError: a value is not finite.
    """
    names = [f"twist.linear.{n}" for n in "xyz"] + [f"twist.angular.{n}" for n in "xyz"]
    shares = [*(v / full[0] for v in linear), *(v / full[1] for v in angular)]
    return tuple(shaped(v, dead_zone, curve, name) for v, name in zip(shares, names, strict=True))
