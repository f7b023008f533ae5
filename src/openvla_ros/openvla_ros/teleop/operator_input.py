"""What an operator asks for at one moment, whatever the device: motion, permission, gripper, pressed commands."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

MOTIONS = ("x", "y", "z", "roll", "pitch", "yaw")
# What a button or key can ask for besides motion.
COMMANDS = ("gripper", "start", "success", "failure", "discard", "e_stop")
STILL = (0.0,) * 6


class DeviceError(ValueError):
    """A device says what cannot be followed; the message says what and, where it can be mended, how."""


@dataclass(frozen=True)
class Demand:
    """One look at the device.

    ``twist``: share of full speed, -1 … 1, along and about the device's x, y, z. ``held``: deadman and clutch are
    held. ``speed``: '' | 'slow' | 'fast'. ``opening``: of a gripper axis, 0 closed … 1 open; None without one.
    ``pressed``: the :data:`COMMANDS` whose button is down.
    """

    twist: tuple[float, ...] = STILL
    held: bool = False
    speed: str = ""
    opening: float | None = None
    pressed: frozenset[str] = field(default_factory=frozenset)


def shaped(value: float, dead_zone: float, curve: float, name: str = "axis") -> float:
    """An axis' reading as a share of full speed: nothing inside the dead zone, then from 0 on, by the power ``curve``.

    Raises:
        DeviceError: the reading is no finite number.
    """
    if not math.isfinite(value):
        raise DeviceError(f"{name} reads {value}: not followed")
    beyond = (min(1.0, abs(value)) - dead_zone) / (1.0 - dead_zone)
    return math.copysign(beyond**curve, value) if beyond > 0.0 else 0.0


def at(values: Sequence[float], index: int, what: str, parameter: str) -> float:
    """``values[index]``.

    Raises:
        DeviceError: the device has no such axis or button; names the parameter to change.
    """
    if not 0 <= index < len(values):
        raise DeviceError(f"the device has no {what} {index}, it has {len(values)}; change '{parameter}'")
    return values[index]
