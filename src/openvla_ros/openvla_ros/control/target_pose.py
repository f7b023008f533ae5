"""From an action (a small displacement) to the target pose."""

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
    """The pose nearest to `goal` on the path from `start` within both bounds [m, rad], and whether they cut it."""
    d, a = distance(start, goal), angle(start, goal)
    fraction = min(1.0, max_distance / d if d > 0 else 1.0, max_angle / a if a > 0 else 1.0)
    return (goal, False) if fraction >= 1.0 else (interpolate(start, goal, fraction), True)


def limit_following_error(commanded: Pose, measured: Pose, max_distance: float, max_angle: float) -> Pose:
    """Pull the commanded pose back until it is within a maximum following error of the measured one.

    Actions accumulate on the commanded pose, so that a lagging controller causes no drift; this limit keeps the
    command of a blocked arm from winding up. Position and orientation are pulled back independently.

    Args:
        commanded: Newest commanded pose, base frame.
        measured: Newest measured pose, base frame.
        max_distance: Largest distance between the two [m].
        max_angle: Largest angle between the two [rad].

    Returns:
        The limited commanded pose.
    """
    position, _ = towards(measured, Pose(commanded.position, measured.quaternion), max_distance, math.inf)
    turned, _ = towards(measured, Pose(measured.position, commanded.quaternion), math.inf, max_angle)
    return Pose(position.position, turned.quaternion)


def compose(pose: Pose, delta: Sequence[float], frame: str, axes: Quaternion = IDENTITY) -> Pose:
    """Move a pose by a delta.

    Args:
        pose: Pose in the base frame.
        delta: dx dy dz [m], droll dpitch dyaw [rad, fixed axes XYZ].
        frame: `base`: the displacement is along the base's axes and the rotation is multiplied from the left;
            `end_effector`: along the end effector's axes, and multiplied from the right.
        axes: Orientation, in that frame, of the axes that the delta is given along, such as a camera's. Only their
            directions count: the end effector turns about itself, wherever the camera is mounted.

    Returns:
        The moved pose, base frame.

    Raises:
        ValueError: The frame is unknown.
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
