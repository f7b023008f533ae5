"""From an action (a small displacement) to the pose the robot is asked to reach."""

from __future__ import annotations

import math
from collections.abc import Sequence

from openvla_ros.geometry import (
    IDENTITY,
    Pose,
    Quaternion,
    Vector,
    angle,
    conjugate,
    distance,
    from_euler,
    interpolate,
    multiply,
    rotate,
)

BASE = "base"
END_EFFECTOR = "end_effector"
FRAMES = (BASE, END_EFFECTOR)


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


def compose(pose: Pose, delta: Sequence[float], frame: str, axes: Quaternion = IDENTITY) -> Pose:
    """`pose` moved by (dx dy dz [m], droll dpitch dyaw [rad, fixed-axis XYZ]).

    frame `base`: the displacement's axes are those of the base, the rotation is multiplied from the left;
    `end_effector`: they are those of the end effector, the rotation is multiplied from the right.
    axes: orientation, in that frame, of the axes the numbers are given along, such as a camera's. Only their directions
    count: the end effector turns about itself, wherever the camera is mounted.
    """
    move: Vector = (float(delta[0]), float(delta[1]), float(delta[2]))
    turn = from_euler(float(delta[3]), float(delta[4]), float(delta[5]))
    if axes != IDENTITY:
        move, turn = rotate(axes, move), multiply(multiply(axes, turn), conjugate(axes))
    if frame == BASE:
        quaternion = multiply(turn, pose.quaternion)
    elif frame == END_EFFECTOR:
        move, quaternion = rotate(pose.quaternion, move), multiply(pose.quaternion, turn)
    else:
        raise ValueError(f"frame '{frame}' is unknown; known: {', '.join(FRAMES)}")
    p = pose.position
    return Pose.of((p[0] + move[0], p[1] + move[1], p[2] + move[2]), quaternion)
