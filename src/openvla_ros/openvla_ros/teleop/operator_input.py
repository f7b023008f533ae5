"""The operator's input at one moment, from any device: motion, deadman, gripper and pressed commands."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

MOTIONS = ("x", "y", "z", "roll", "pitch", "yaw")
# Commands of buttons and keys besides motion.
COMMANDS = ("gripper", "start", "success", "failure", "discard", "e_stop")
STILL = (0.0,) * 6


class DeviceError(ValueError):
    """A device gives an invalid reading; the message says which and, where there is one, the remedy."""


@dataclass(frozen=True)
class OperatorInput:
    """State of the device at one moment.

    Attributes:
        twist: Share of full speed, -1 … 1, along and about the device's x, y, z.
        held: Whether deadman and clutch are held.
        speed: '', 'slow' or 'fast'.
        opening: Gripper axis, 0 closed … 1 open; None without one.
        pressed: The `COMMANDS` whose button is down.
    """

    twist: tuple[float, ...] = STILL
    held: bool = False
    speed: str = ""
    opening: float | None = None
    pressed: frozenset[str] = field(default_factory=frozenset)


def shaped(value: float, dead_zone: float, curve: float, name: str = "axis") -> float:
    """The reading of an axis as a share of full speed: 0 inside the dead zone, and continuous at its edge.

    Args:
        value: Reading, -1 … 1.
        dead_zone: Deflection without effect.
        curve: Power of deflection to speed.
        name: Name of the axis, for the error.

    Returns:
        Share of full speed, -1 … 1.

    Raises:
        DeviceError: The reading is not finite.
    """
    if not math.isfinite(value):
        raise DeviceError(f"{name} reads {value}, which is not a finite number")
    beyond = (min(1.0, abs(value)) - dead_zone) / (1.0 - dead_zone)
    return math.copysign(beyond**curve, value) if beyond > 0.0 else 0.0


def at(values: Sequence[float], index: int, what: str, parameter: str) -> float:
    """The reading of an axis or a button.

    Args:
        values: All readings.
        index: Number of the axis or button.
        what: 'axis' or 'button'.
        parameter: Parameter that sets the number, for the error.

    Returns:
        The reading.

    Raises:
        DeviceError: The device has no such axis or button.
    """
    if not 0 <= index < len(values):
        raise DeviceError(f"the device has no {what} {index}, it has {len(values)}; change '{parameter}'")
    return values[index]
