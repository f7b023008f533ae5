"""Poses and rotations as plain floats, used by safety, control and robots.

A pose is a position [m] and a unit quaternion (x, y, z, w) in the robot's base frame. Python floats instead of arrays:
these functions run at the controller's rate, where numpy's overhead on three numbers is most of the cost.
Checked against scipy's Rotation in test/unit/ros/control/test_target_pose.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Vector = tuple[float, float, float]
Quaternion = tuple[float, float, float, float]
IDENTITY: Quaternion = (0.0, 0.0, 0.0, 1.0)


@dataclass(frozen=True)
class Bounds:
    """Bounds on the length of a target's derivatives, [m/s, m/s², m/s³] or [rad/s, rad/s², rad/s³]."""

    speed: float
    acceleration: float
    jerk: float

    def __post_init__(self) -> None:
        """Check the bounds.

        Raises:
            ValueError: A bound is not finite and positive.
        """
        if not all(math.isfinite(v) and v > 0 for v in (self.speed, self.acceleration, self.jerk)):
            raise ValueError(f"speed, acceleration and jerk must be finite and over 0, not {self}")

    def scaled(self, factor: float) -> Bounds:
        """Every bound times a factor; 1/√3 gives bounds of each axis that keep the vector within these."""
        return Bounds(self.speed * factor, self.acceleration * factor, self.jerk * factor)


@dataclass(frozen=True)
class Pose:
    """Position [m] and unit quaternion (x, y, z, w) in the base frame."""

    position: Vector
    quaternion: Quaternion

    @classmethod
    def of(cls, position: Iterable[float], quaternion: Iterable[float]) -> Pose:
        """Make a pose from any numbers; the quaternion is normalized.

        Args:
            position: 3 finite numbers [m].
            quaternion: 4 finite numbers (x, y, z, w) with a norm between 0.5 and 2.

        Returns:
            The pose.

        Raises:
            ValueError: The numbers are not as described.
        """
        p, q = tuple(float(v) for v in position), tuple(float(v) for v in quaternion)
        norm = math.sqrt(sum(v * v for v in q)) if len(q) == 4 else 0.0
        if len(p) != 3 or len(q) != 4 or not all(map(math.isfinite, p + q)) or not 0.5 < norm < 2.0:
            raise ValueError(f"not a pose: position {list(p)}, quaternion (x y z w) {list(q)}")
        return cls((p[0], p[1], p[2]), (q[0] / norm, q[1] / norm, q[2] / norm, q[3] / norm))


def multiply(a: Quaternion, b: Quaternion) -> Quaternion:
    """Hamilton product: the rotation b, then a (both about the fixed axes)."""
    ax, ay, az, aw = a
    bx, by, bz, bw = b
    return (
        aw * bx + ax * bw + ay * bz - az * by,
        aw * by - ax * bz + ay * bw + az * bx,
        aw * bz + ax * by - ay * bx + az * bw,
        aw * bw - ax * bx - ay * by - az * bz,
    )


def conjugate(q: Quaternion) -> Quaternion:
    """The inverse of a unit quaternion."""
    return (-q[0], -q[1], -q[2], q[3])


def rotate(q: Quaternion, v: Vector) -> Vector:
    """Rotate a vector by a unit quaternion."""
    x, y, z, _ = multiply(multiply(q, (v[0], v[1], v[2], 0.0)), conjugate(q))
    return (x, y, z)


def from_euler(roll: float, pitch: float, yaw: float) -> Quaternion:
    """Fixed-axis XYZ angles [rad] (R = Rz(yaw) Ry(pitch) Rx(roll)) as a quaternion."""
    cr, sr = math.cos(roll / 2), math.sin(roll / 2)
    cp, sp = math.cos(pitch / 2), math.sin(pitch / 2)
    cy, sy = math.cos(yaw / 2), math.sin(yaw / 2)
    return (
        sr * cp * cy - cr * sp * sy,
        cr * sp * cy + sr * cp * sy,
        cr * cp * sy - sr * sp * cy,
        cr * cp * cy + sr * sp * sy,
    )


def distance(a: Pose, b: Pose) -> float:
    """Distance [m] between two positions."""
    return math.dist(a.position, b.position)


def angle(a: Pose, b: Pose) -> float:
    """Angle [rad], 0 … π, of the rotation between two orientations."""
    x, y, z, w = multiply(a.quaternion, conjugate(b.quaternion))
    return 2.0 * math.atan2(math.sqrt(x * x + y * y + z * z), abs(w))


def interpolate(a: Pose, b: Pose, fraction: float) -> Pose:
    """The pose at `fraction` 0 … 1 of the straight path from a to b, rotating about one axis (slerp)."""
    s = min(1.0, max(0.0, fraction))
    p, r = a.position, b.position
    position = (p[0] + s * (r[0] - p[0]), p[1] + s * (r[1] - p[1]), p[2] + s * (r[2] - p[2]))
    qa, qb = a.quaternion, b.quaternion
    dot = sum(u * v for u, v in zip(qa, qb, strict=True))
    if dot < 0.0:  # q and -q are the same orientation: take the smaller rotation
        qb, dot = (-qb[0], -qb[1], -qb[2], -qb[3]), -dot
    if dot > 0.9999995:  # under 2 mrad: the chord is the arc
        wa, wb = 1.0 - s, s
    else:
        theta = math.acos(min(1.0, dot))
        wa, wb = math.sin((1.0 - s) * theta) / math.sin(theta), math.sin(s * theta) / math.sin(theta)
    q = tuple(wa * u + wb * v for u, v in zip(qa, qb, strict=True))
    return Pose.of(position, q)


def exp(rotation: Sequence[float]) -> Quaternion:
    """Unit quaternion of a rotation vector [rad]."""
    x, y, z = rotation
    theta = math.sqrt(x * x + y * y + z * z)
    k = math.sin(theta / 2) / theta if theta > 1e-8 else 0.5
    return (k * x, k * y, k * z, math.cos(theta / 2))


def log(q: Quaternion) -> Vector:
    """Rotation vector [rad] of a unit quaternion, of length 0 … π."""
    x, y, z, w = q if q[3] >= 0.0 else (-q[0], -q[1], -q[2], -q[3])
    sine = math.sqrt(x * x + y * y + z * z)
    k = 2.0 * math.atan2(sine, w) / sine if sine > 1e-8 else 2.0
    return (k * x, k * y, k * z)


def dot(a: Sequence[float], b: Sequence[float]) -> float:
    """Scalar product of two 3-vectors."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def cross(a: Sequence[float], b: Sequence[float]) -> Vector:
    """Vector product."""
    return (a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0])


def unit(v: Sequence[float]) -> Vector:
    """The direction of a vector.

    Args:
        v: The vector.

    Returns:
        The vector of length 1.

    Raises:
        ValueError: The vector has no direction.
    """
    length = math.hypot(*v)
    if not (length > 1e-9 and math.isfinite(length)):
        raise ValueError(f"{list(v)} has no direction")
    return (v[0] / length, v[1] / length, v[2] / length)
