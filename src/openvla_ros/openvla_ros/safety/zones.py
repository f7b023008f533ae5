"""Allowed poses of the end effector: a workspace box, keep-out boxes, and a cone with a range of yaw.

All in the robot's base frame. Pure functions: returned poses are allowed, and the limits that cut are named.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from openvla_ros.geometry import (
    Pose,
    Quaternion,
    Vector,
    conjugate,
    cross,
    dot,
    exp,
    interpolate,
    log,
    multiply,
    unit,
)

GAP = 1e-4  # [m] distance from a keep-out box at which a path ends
FARTHEST = 5.0  # [m] largest coordinate of a keep-out box: beyond it, millimetres were given for metres
ROUNDING = 1e-9  # [m, rad] error of the arithmetic
SAMPLES = 24  # points of a rotation that are checked before the border is searched between two of them


@dataclass(frozen=True)
class KeepOut:
    """A box that no target is inside of: a table, a post, the side of a second arm."""

    name: str
    low: Vector  # [m]
    high: Vector  # [m]

    @classmethod
    def parse(cls, text: str) -> KeepOut:
        """Read a box.

        Args:
            text: Name, lowest and highest corner [m], such as `post 0.4 0.1 0.0 0.5 0.2 0.6`.

        Returns:
            The box.

        Raises:
            ValueError: The text is not a name and six coordinates within range.
        """
        name, *values = text.replace(",", " ").replace(":", " ").split() or [""]
        try:
            v = [float(value) for value in values]
        except ValueError:
            v = []
        if len(v) != 6 or not all(abs(x) <= FARTHEST for x in v) or any(not v[i] < v[i + 3] for i in range(3)):
            raise ValueError(
                f"keep-out box '{text}' is not `name low_x low_y low_z high_x high_y high_z` in metres, within "
                f"±{FARTHEST:g} m of the base"
            )
        return cls(name, (v[0], v[1], v[2]), (v[3], v[4], v[5]))

    def contains(self, p: Sequence[float], margin: float = 0.0) -> bool:
        """Whether a point is inside, or nearer than `margin` [m]."""
        return all(
            low - margin < v < high + margin for v, low, high in zip(p, self.low, self.high, strict=True)
        )  # the surface is outside

    def entered_at(self, a: Sequence[float], b: Sequence[float]) -> float | None:
        """Share of the straight path from a to b at which it enters the box; None if it does not (slab method)."""
        enter, leave = 0.0, 1.0
        for p, q, low, high in zip(a, b, self.low, self.high, strict=True):
            step = q - p
            if abs(step) < 1e-15:
                if not low < p < high:
                    return None
                continue
            first, last = sorted(((low - p) / step, (high - p) / step))
            enter, leave = max(enter, first), min(leave, last)
            if not enter < leave:
                return None
        return enter


@dataclass(frozen=True)
class Cone:
    """Largest angle of the tool axis from a reference axis, and the range of yaw about that axis.

    The orientation is decomposed as swing · twist · reference, where the reference orientation rotates `tool_axis`
    onto `axis` by the smallest angle: the swing's angle is the lean, the twist's is the yaw, both [rad].
    """

    axis: Vector = (0.0, 0.0, -1.0)  # base frame
    tool_axis: Vector = (0.0, 0.0, 1.0)  # end-effector frame
    angle: float = math.pi
    yaw_low: float = -math.pi
    yaw_high: float = math.pi

    def __post_init__(self) -> None:
        """Check axes and ranges.

        Raises:
            ValueError: An axis has no direction, or a range is empty.
        """
        unit(self.axis), unit(self.tool_axis)
        if not 0.0 < self.angle <= math.pi + ROUNDING:
            raise ValueError(f"cone angle is {self.angle} rad; it must be over 0 and up to π")
        if not -math.pi - ROUNDING <= self.yaw_low < self.yaw_high <= math.pi + ROUNDING:
            raise ValueError(f"yaw range {self.yaw_low} … {self.yaw_high} rad must be increasing and within -π … π")

    @property
    def open(self) -> bool:
        """Whether every orientation is allowed."""
        return self.angle >= math.pi - 1e-6 and self.yaw_high - self.yaw_low >= 2 * math.pi - 1e-6


@dataclass(frozen=True)
class Zones:
    """All limits on the pose of the end effector."""

    low: Vector  # [m] lowest corner of the workspace
    high: Vector  # [m] highest corner
    keep_out: tuple[KeepOut, ...] = ()
    cone: Cone = field(default_factory=Cone)

    def __post_init__(self) -> None:
        """Check the workspace box.

        Raises:
            ValueError: The box is empty.
        """
        if any(not low < high for low, high in zip(self.low, self.high, strict=True)):
            raise ValueError(f"workspace box: low {list(self.low)} must be below high {list(self.high)}")


def outside(pose: Pose, zones: Zones, margin: float = 0.0) -> tuple[str, ...]:
    """Names of the limits that a pose violates, or is nearer to than `margin` [m, rad]."""
    names = [
        f"box_{axis}"
        for axis, value, low, high in zip("xyz", pose.position, zones.low, zones.high, strict=True)
        if not low + margin - ROUNDING <= value <= high - margin + ROUNDING
    ]
    names += [f"keep_out_{box.name}" for box in zones.keep_out if box.contains(pose.position, margin)]
    return (*names, *_turned_outside(pose.quaternion, zones.cone, margin))


def crossed(a: Sequence[float], b: Sequence[float], zones: Zones) -> str:
    """Name of the first keep-out box that the straight path from a to b crosses; '' if none."""
    return next((f"keep_out_{box.name}" for box in zones.keep_out if box.entered_at(a, b) is not None), "")


def clamp(pose: Pose, zones: Zones, margin: float = 0.0) -> tuple[Pose, tuple[str, ...]]:
    """The nearest pose inside workspace box and cone, and what cut it; `reachable` respects keep-out boxes."""
    inside: list[float] = []
    names: list[str] = []
    for axis, value, low, high in zip("xyz", pose.position, zones.low, zones.high, strict=True):
        room = min(margin, (high - low) / 4)
        kept = min(high - room, max(low + room, value))
        if not low <= value <= high:
            names.append(f"box_{axis}")
        inside.append(kept)
    quaternion = pose.quaternion
    turned = _turned_outside(quaternion, zones.cone, margin)
    if turned:
        quaternion = _turned_inside(quaternion, zones.cone, margin)
        names += _turned_outside(pose.quaternion, zones.cone, 0.0)
    return Pose((inside[0], inside[1], inside[2]), quaternion), tuple(names)


def reachable(start: Pose, goal: Pose, zones: Zones, margin: float = 0.0) -> tuple[Pose, tuple[str, ...]]:
    """Find the farthest allowed pose on the straight path (with even rotation) from an allowed pose towards a goal.

    The goal is first brought inside the box and the cone; the path then ends `GAP` before the first keep-out box, and
    the rotation where it would leave the cone between two orientations that are both inside it.

    Args:
        start: An allowed pose, base frame.
        goal: The goal, base frame.
        zones: The limits.
        margin: Distance to keep from the borders [m, rad].

    Returns:
        The pose, and the names of the limits that cut the path.
    """
    goal, names = clamp(goal, zones, margin)
    position = goal.position
    length = math.dist(start.position, position)
    for box in zones.keep_out:
        at = box.entered_at(start.position, position)
        if at is not None:
            share = max(0.0, at - (GAP + 2 * margin) / max(math.dist(start.position, position), 1e-12))
            position = interpolate(start, Pose(position, start.quaternion), share).position
            names = (*names, f"keep_out_{box.name}")
        elif margin and box.contains(position, margin) and length > 0.0:
            position, names = start.position, (*names, f"keep_out_{box.name}")
    quaternion, cut = _turn_towards(start.quaternion, goal.quaternion, zones.cone, margin)
    return Pose(position, quaternion), (*names, *(n for n in cut if n not in names))


# ---- orientation ---------------------------------------------------------------------------------


@lru_cache(maxsize=16)
def _reference(cone: Cone) -> Quaternion:
    """The smallest rotation of the tool axis onto the reference axis; half a turn about x or y if they are opposed."""
    a, b = unit(cone.tool_axis), unit(cone.axis)
    if dot(a, b) < -1.0 + 1e-9:
        side = cross(cross(a, (1.0, 0.0, 0.0)), a)
        side = unit(side) if math.hypot(*side) > 1e-3 else unit(cross(cross(a, (0.0, 1.0, 0.0)), a))
        return (*side, 0.0)
    x, y, z = cross(a, b)
    w = 1.0 + dot(a, b)
    norm = math.sqrt(x * x + y * y + z * z + w * w)
    return (x / norm, y / norm, z / norm, w / norm)


def swing_twist(quaternion: Quaternion, cone: Cone) -> tuple[Vector, float]:
    """Decompose an orientation.

    Args:
        quaternion: Orientation of the end effector, base frame.
        cone: Reference and tool axes.

    Returns:
        The swing as a rotation vector [rad], and the twist about the reference axis [rad], -π … π.
    """
    n = unit(cone.axis)
    x, y, z, w = multiply(quaternion, conjugate(_reference(cone)))
    along = dot((x, y, z), n)
    norm = math.hypot(along, w)
    if norm < 1e-9:  # leaning by π: the yaw is undefined
        return log((x, y, z, w)), 0.0
    twist = (n[0] * along / norm, n[1] * along / norm, n[2] * along / norm, w / norm)
    return log(multiply((x, y, z, w), conjugate(twist))), dot(log(twist), n)


def _turned_outside(quaternion: Quaternion, cone: Cone, margin: float) -> tuple[str, ...]:
    if cone.open:
        return ()
    swing, yaw = swing_twist(quaternion, cone)
    names = ("cone",) if math.hypot(*swing) > max(cone.angle - margin, cone.angle / 2) + 1e-7 else ()
    whole = cone.yaw_high - cone.yaw_low >= 2 * math.pi - 1e-6
    room = min(margin, (cone.yaw_high - cone.yaw_low) / 4)
    if not whole and not cone.yaw_low + room - 1e-7 <= yaw <= cone.yaw_high - room + 1e-7:
        return (*names, "yaw")
    return names


def _turned_inside(quaternion: Quaternion, cone: Cone, margin: float) -> Quaternion:
    swing, yaw = swing_twist(quaternion, cone)
    lean, most = math.hypot(*swing), max(cone.angle - margin, cone.angle / 2)
    if lean > most:
        swing = (swing[0] * most / lean, swing[1] * most / lean, swing[2] * most / lean)
    if cone.yaw_high - cone.yaw_low < 2 * math.pi - 1e-6:
        room = min(margin, (cone.yaw_high - cone.yaw_low) / 4)
        low, high = cone.yaw_low + room, cone.yaw_high - room
        if not low <= yaw <= high:  # the nearer end, around the circle
            yaw = min((low, high), key=lambda end: abs(math.remainder(yaw - end, 2 * math.pi)))
    n = unit(cone.axis)
    twist = exp((n[0] * yaw, n[1] * yaw, n[2] * yaw))
    return Pose.of((0.0, 0.0, 0.0), multiply(multiply(exp(swing), twist), _reference(cone))).quaternion


def _turn_towards(start: Quaternion, goal: Quaternion, cone: Cone, margin: float) -> tuple[Quaternion, tuple[str, ...]]:
    """The farthest allowed orientation on the rotation from `start` to `goal`, and what cut it."""
    if cone.open:
        return goal, ()
    a, b = Pose((0.0, 0.0, 0.0), start), Pose((0.0, 0.0, 0.0), goal)

    def wrong(share: float) -> tuple[str, ...]:
        return _turned_outside(interpolate(a, b, share).quaternion, cone, margin)

    good = 0.0
    for i in range(1, SAMPLES + 1):
        cut = wrong(i / SAMPLES)
        if not cut:
            good = i / SAMPLES
            continue
        bad = i / SAMPLES
        for _ in range(20):
            middle = (good + bad) / 2
            good, bad = (good, middle) if wrong(middle) else (middle, bad)
        return interpolate(a, b, good).quaternion, cut
    return goal, ()
