"""Gamepads, SpaceMouses and VR controllers as sensor_msgs/Joy: numbered axes and buttons, mapped by configuration."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from openvla_ros.teleop.operator_input import COMMANDS, MOTIONS, STILL, DeviceError, OperatorInput, at, shaped

NONE = -1  # number of an axis or button that is not used


@dataclass(frozen=True)
class JoyMap:
    """Meaning of axes and buttons; -1 = none.

    Attributes:
        axes: Axis of each of `MOTIONS`.
        gains: Gain of each axis; -1 reverses it.
        plus: Button that moves each of `MOTIONS` at full speed.
        minus: Button that moves each the other way.
        deadman: Button to hold; -1: any deflection counts as holding.
        clutch: Button to hold as well.
        slow: Button for slow motion.
        fast: Button for fast motion.
        gripper_axis: Axis of the gripper.
        gripper_open: Reading of that axis for an open gripper.
        gripper_closed: Reading of that axis for a closed gripper.
        commands: Command -> button.
        dead_zone: Deflection without effect.
        curve: Power of deflection to speed.
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
        """Refuse a mapping that contradicts itself."""
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

    def read(self, axes: Sequence[float], buttons: Sequence[int]) -> OperatorInput:
        """The operator's input.

        Args:
            axes: Readings of the axes, -1 … 1.
            buttons: States of the buttons.

        Returns:
            The input, without the emergency stop (see `stop`).

        Raises:
            DeviceError: An axis is not finite, or a configured axis or button does not exist.
        """
        twist = tuple(self._motion(i, axes, buttons) for i in range(len(MOTIONS)))
        held = self._down(buttons, self.deadman, "deadman") if self.deadman != NONE else twist != STILL
        if self.clutch != NONE:
            held = self._down(buttons, self.clutch, "clutch") and held
        slow, fast = self._down(buttons, self.slow, "slow"), self._down(buttons, self.fast, "fast")
        pressed = frozenset(name for name, button in self.commands.items() if self._down(buttons, button, name))
        pressed -= {"e_stop"}
        speed = "slow" if slow else "fast" if fast else ""
        return OperatorInput(twist, held, speed, self._opening(axes), pressed)

    def stop(self, buttons: Sequence[int]) -> bool:
        """Whether the emergency-stop button is down, also in a message that is otherwise invalid."""
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
            raise DeviceError(f"axis {self.gripper_axis} (gripper) reads {reading}, which is not a finite number")
        share = (reading - self.gripper_closed) / (self.gripper_open - self.gripper_closed)
        return min(1.0, max(0.0, share))


def read_twist(
    linear: Sequence[float], angular: Sequence[float], full: tuple[float, float], dead_zone: float, curve: float
) -> tuple[float, ...]:
    """A Twist as shares of full speed.

    Args:
        linear: Linear readings x, y, z.
        angular: Angular readings x, y, z.
        full: Linear and angular reading at full deflection.
        dead_zone: Deflection without effect.
        curve: Power of deflection to speed.

    Returns:
        Shares (6,), -1 … 1.

    Raises:
        DeviceError: A value is not finite.
    """
    names = [f"twist.linear.{n}" for n in "xyz"] + [f"twist.angular.{n}" for n in "xyz"]
    shares = [*(v / full[0] for v in linear), *(v / full[1] for v in angular)]
    return tuple(shaped(v, dead_zone, curve, name) for v, name in zip(shares, names, strict=True))
