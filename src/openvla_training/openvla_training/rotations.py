"""Rotations of whole trajectories, on SciPy's Rotation: fixed-axis angles, pose differences, changes of axes.

Angles are roll, pitch, yaw about the fixed x, y, z axes, R = Rz(yaw) Ry(pitch) Rx(roll) [rad]; quaternions are x y z w;
motions are translation [m] and angles [rad] side by side, (N, 6).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

Array = NDArray[np.floating[Any]]

# |sin(pitch)| above which roll and yaw turn about the same axis. Rotation.as_euler sets yaw to 0 only within 1e-7 rad
# of that; the reference's bound gives the reference's numbers (tensorflow_graphics/geometry/transformation/euler.py).
_GIMBAL_LOCK = 1.0 - 1e-6


def angles_to_matrices(angles: Array) -> Array:
    """Rotation matrices (N, 3, 3) of roll, pitch, yaw (N, 3) [rad]."""
    return Rotation.from_euler("xyz", angles).as_matrix()


def quaternions_to_matrices(quaternions: Array) -> Array:
    """Rotation matrices (N, 3, 3) of quaternions (N, 4) of any length; zeros, which pad data, are no rotation."""
    zero = ~np.any(quaternions, axis=1, keepdims=True)
    return Rotation.from_quat(np.where(zero, [0.0, 0.0, 0.0, 1.0], quaternions)).as_matrix()


def matrices_to_angles(matrices: Array) -> Array:
    """Roll, pitch in [-pi/2, pi/2], yaw (N, 3) [rad] of rotation matrices (N, 3, 3); yaw is 0 in gimbal lock."""
    down = np.clip(matrices[:, 2, 0], -1.0, 1.0)
    locked = np.abs(down) > _GIMBAL_LOCK
    roll = np.arctan2(matrices[:, 2, 1], matrices[:, 2, 2])
    yaw = np.arctan2(matrices[:, 1, 0], matrices[:, 0, 0])
    roll_in_lock = np.arctan2(-down * matrices[:, 0, 1], -down * matrices[:, 0, 2])
    return np.stack([np.where(locked, roll_in_lock, roll), -np.arcsin(down), np.where(locked, 0.0, yaw)], axis=1)


def pose_differences(poses: Array) -> Array:
    """Motions (N-1, 6) from each pose (N, 7: x y z qx qy qz qw) to the next, along the axes of the poses' frame."""
    attitude = quaternions_to_matrices(poses[:, 3:7])
    turn = attitude[1:] @ np.swapaxes(attitude[:-1], 1, 2)
    return np.concatenate([np.diff(poses[:, :3], axis=0), matrices_to_angles(turn)], axis=1)


def to_base(motion: Array, attitude: Array) -> Array:
    """Motions (N, 6) along the end effector's axes, expressed along the base's axes.

    Args:
        motion: Translations [m] and angles [rad], (N, 6).
        attitude: Rotation matrices of the end effector in the base frame, (N, 3, 3).

    Returns:
        The same motions along the base's axes, (N, 6).
    """
    turn = attitude @ angles_to_matrices(motion[:, 3:6]) @ np.swapaxes(attitude, 1, 2)
    return np.concatenate([np.einsum("nij,nj->ni", attitude, motion[:, :3]), matrices_to_angles(turn)], axis=1)


def to_end_effector(motion: Array, attitude: Array) -> Array:
    """The inverse of :func:`to_base` (reference: oxe/utils/droid_utils.py)."""
    return to_base(motion, np.swapaxes(attitude, 1, 2))


def slerp(first: Array, second: Array, share: Array) -> Array:
    """Unit quaternions (N, 4) on the shorter arcs from `first` to `second` (N, 4), at the fractions `share` (N,)."""
    start = Rotation.from_quat(first)
    arc = (start.inv() * Rotation.from_quat(second)).as_rotvec()
    return (start * Rotation.from_rotvec(share[:, None] * arc)).as_quat()
