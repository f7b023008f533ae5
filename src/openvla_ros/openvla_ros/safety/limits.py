"""Limits on what a policy may ask for: pure functions that refuse or clip, and say by name which limit did it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

ON_LIMIT = ("clip", "refuse")
ACTION_LENGTH = 7


@dataclass(frozen=True)
class Limits:
    """Limits of one robot at one bench. Positions in the base frame."""

    box_low: tuple[float, float, float]  # [m] lowest corner of the workspace the end effector stays in
    box_high: tuple[float, float, float]  # [m] highest corner
    max_translation: float = 0.06  # [m] an action, after scaling
    max_rotation: float = 0.35  # [rad] each of roll, pitch, yaw of an action, after scaling
    max_speed: float = 0.5  # [m/s] of the restreamed target
    max_turn: float = 1.5  # [rad/s] of the restreamed target
    scale: float = 1.0  # translations and rotations are multiplied by this
    on_limit: str = "clip"  # what an action over a limit becomes: clip, or refuse
    close_below: float = 0.4  # gripper hysteresis: closes under this,
    open_above: float = 0.6  # opens over this, and keeps what it does between the two

    def __post_init__(self) -> None:
        """Limits that limit nothing, or contradict themselves, are refused when they are made."""
        if any(not low < high for low, high in zip(self.box_low, self.box_high, strict=True)):
            raise ValueError(f"workspace box: low {list(self.box_low)} must be under high {list(self.box_high)}")
        if not 0.0 <= self.close_below <= self.open_above <= 1.0:
            raise ValueError(
                f"gripper hysteresis: close_below {self.close_below} must not be over open_above "
                f"{self.open_above}, both 0 … 1"
            )
        positive = (self.max_translation, self.max_rotation, self.max_speed, self.max_turn, self.scale)
        if not all(math.isfinite(v) and v > 0 for v in positive):
            raise ValueError(f"caps and scale must be finite and over 0, not {positive}")
        if self.on_limit not in ON_LIMIT:
            raise ValueError(f"on_limit is '{self.on_limit}'; choices: {', '.join(ON_LIMIT)}")


def malformed(action: Sequence[float]) -> str:
    """Why seven numbers are no action at all; '' when they are one."""
    if len(action) != ACTION_LENGTH:
        return f"action has {len(action)} values, not {ACTION_LENGTH}"
    bad = [i for i, v in enumerate(action) if not math.isfinite(v)]
    return f"action value {bad[0]} is {action[bad[0]]}" if bad else ""


def limit_action(action: Sequence[float], limits: Limits) -> tuple[tuple[float, ...], tuple[str, ...]]:
    """Scale a well-formed action, then cap it. Returns it with the names of the limits that cut it.

    A translation over its cap keeps its direction; a rotation is scaled as a whole until no angle is over the cap.
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
    return [0.0 for _ in values]  # so large that it overflowed: no direction is left to keep


def limit_position(position: Sequence[float], limits: Limits) -> tuple[tuple[float, float, float], tuple[str, ...]]:
    """The nearest position inside the workspace box, and `box_x` … for each axis that was outside."""
    inside: list[float] = []
    names: list[str] = []
    for axis, value, low, high in zip("xyz", position, limits.box_low, limits.box_high, strict=True):
        kept = min(high, max(low, value))
        if kept != value:
            names.append(f"box_{axis}")
        inside.append(kept)
    return (inside[0], inside[1], inside[2]), tuple(names)


def gripper_command(wanted: float, present: float, limits: Limits) -> float:
    """The opening to command, 0 or 1: hysteresis keeps a policy's noise from opening and closing the hand."""
    if wanted < limits.close_below:
        return 0.0
    if wanted > limits.open_above:
        return 1.0
    return 1.0 if present >= 0.5 else 0.0
