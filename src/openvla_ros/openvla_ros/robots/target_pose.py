"""From an action (a small displacement) to the pose the robot is asked to reach. Plain numbers, no arrays.

Poses are a position [m] and a unit quaternion (x, y, z, w) in the robot's base frame. Python floats rather than
arrays: these functions run at the controller's rate, where numpy's overhead on three numbers is most of the cost.
Checked against scipy's Rotation in test/unit/test_target_pose.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Vector = tuple[float, float, float]
Quaternion = tuple[float, float, float, float]
BASE = "base"
END_EFFECTOR = "end_effector"
FRAMES = (BASE, END_EFFECTOR)


@dataclass(frozen=True)
class Pose:
    """Position [m] and unit quaternion (x, y, z, w) in the base frame."""

    position: Vector
    quaternion: Quaternion

    @classmethod
    def of(cls, position: Iterable[float], quaternion: Iterable[float]) -> Pose:
        """A pose from any numbers; ValueError unless they are 3 and 4, finite, and the quaternion has a length."""
        p, q = tuple(float(v) for v in position), tuple(float(v) for v in quaternion)
        norm = math.sqrt(sum(v * v for v in q)) if len(q) == 4 else 0.0
        if len(p) != 3 or len(q) != 4 or not all(map(math.isfinite, p + q)) or not 0.5 < norm < 2.0:
            raise ValueError(f"no pose: position {list(p)}, quaternion (x y z w) {list(q)}")
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
    """Turn a vector by a unit quaternion."""
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
    """The pose at `fraction` 0 … 1 of the straight way from a to b, turning about one axis (slerp)."""
    s = min(1.0, max(0.0, fraction))
    p, r = a.position, b.position
    position = (p[0] + s * (r[0] - p[0]), p[1] + s * (r[1] - p[1]), p[2] + s * (r[2] - p[2]))
    qa, qb = a.quaternion, b.quaternion
    dot = sum(u * v for u, v in zip(qa, qb, strict=True))
    if dot < 0.0:  # q and -q are the same orientation: take the short way
        qb, dot = (-qb[0], -qb[1], -qb[2], -qb[3]), -dot
    if dot > 0.9999995:  # under 2 mrad: the chord is the arc
        wa, wb = 1.0 - s, s
    else:
        theta = math.acos(min(1.0, dot))
        wa, wb = math.sin((1.0 - s) * theta) / math.sin(theta), math.sin(s * theta) / math.sin(theta)
    q = tuple(wa * u + wb * v for u, v in zip(qa, qb, strict=True))
    return Pose.of(position, q)


def towards(start: Pose, goal: Pose, max_distance: float, max_angle: float) -> tuple[Pose, bool]:
    """The pose nearest to `goal` on the way from `start` that is within both bounds, and whether they cut it."""
    d, a = distance(start, goal), angle(start, goal)
    fraction = min(1.0, max_distance / d if d > 0 else 1.0, max_angle / a if a > 0 else 1.0)
    return (goal, False) if fraction >= 1.0 else (interpolate(start, goal, fraction), True)


def leash(commanded: Pose, measured: Pose, max_distance: float, max_angle: float) -> Pose:
    """The commanded pose, pulled back until it is within reach of the measured one.

    Actions accumulate on what was commanded, so that a lagging controller causes no drift; the leash keeps a
    blocked arm's command from running away. Position and orientation are pulled back each for itself.
    """
    position, _ = towards(measured, Pose(commanded.position, measured.quaternion), max_distance, math.inf)
    turned, _ = towards(measured, Pose(measured.position, commanded.quaternion), math.inf, max_angle)
    return Pose(position.position, turned.quaternion)


def compose(pose: Pose, delta: Sequence[float], frame: str) -> Pose:
    """`pose` moved by (dx dy dz [m], droll dpitch dyaw [rad, fixed-axis XYZ]).

    frame `base`: the displacement's axes are those of the base, the rotation is multiplied from the left;
    `end_effector`: they are those of the end effector, the rotation is multiplied from the right.
    """
    move = (float(delta[0]), float(delta[1]), float(delta[2]))
    turn = from_euler(float(delta[3]), float(delta[4]), float(delta[5]))
    if frame == BASE:
        quaternion = multiply(turn, pose.quaternion)
    elif frame == END_EFFECTOR:
        move, quaternion = rotate(pose.quaternion, move), multiply(pose.quaternion, turn)
    else:
        raise ValueError(f"frame '{frame}' is unknown; known: {', '.join(FRAMES)}")
    p = pose.position
    return Pose.of((p[0] + move[0], p[1] + move[1], p[2] + move[2]), quaternion)
