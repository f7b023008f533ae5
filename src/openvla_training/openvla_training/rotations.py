"""Rotations of whole trajectories: quaternions x y z w, fixed-axis angles, differences of poses, changes of frame."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def rotation_matrix(quaternion_xyzw: Array) -> Array:
    """Rotation matrices (N, 3, 3) of quaternions (N, 4), which need not have unit length."""
    x, y, z, w = (quaternion_xyzw / np.linalg.norm(quaternion_xyzw, axis=1, keepdims=True)).T
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return np.moveaxis(np.array(rows), 2, 0)


def fixed_angles(rotation: Array) -> Array:
    """Roll, pitch, yaw about the fixed x, y, z axes (N, 3) of matrices (N, 3, 3): R = Rz(yaw) Ry(pitch) Rx(roll)."""
    pitch = np.arcsin(np.clip(-rotation[:, 2, 0], -1.0, 1.0))
    roll = np.arctan2(rotation[:, 2, 1], rotation[:, 2, 2])
    yaw = np.arctan2(rotation[:, 1, 0], rotation[:, 0, 0])
    return np.stack([roll, pitch, yaw], axis=1)


def from_fixed_angles(angles: Array) -> Array:
    """The inverse of :func:`fixed_angles`: matrices (N, 3, 3) of roll, pitch, yaw (N, 3) [rad]."""
    (cr, cp, cy), (sr, sp, sy) = np.cos(angles).T, np.sin(angles).T
    rows = [
        [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
        [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
        [-sp, cp * sr, cp * cr],
    ]
    return np.moveaxis(np.array(rows), 2, 0)


def pose_differences(poses: Array) -> Array:
    """Deltas (N-1, 6) that lead from each pose (N, 7: x y z qx qy qz qw) to the next, in the poses' own frame."""
    rotation = rotation_matrix(poses[:, 3:7])
    turn = rotation[1:] @ np.swapaxes(rotation[:-1], 1, 2)
    return np.concatenate([np.diff(poses[:, :3], axis=0), fixed_angles(turn)], axis=1)


def to_end_effector(motion: Array, quaternion_xyzw: Array) -> Array:
    """Deltas (N, 6) along the base's axes, said along the axes of the end effector, whose attitude is given (N, 4)."""
    return _change(motion, np.swapaxes(rotation_matrix(quaternion_xyzw), 1, 2))


def to_base(motion: Array, quaternion_xyzw: Array) -> Array:
    """The inverse of :func:`to_end_effector`."""
    return _change(motion, rotation_matrix(quaternion_xyzw))


def _change(motion: Array, into: Array) -> Array:
    translation = np.einsum("nij,nj->ni", into, motion[:, :3])
    turn = into @ from_fixed_angles(motion[:, 3:6]) @ np.swapaxes(into, 1, 2)
    return np.concatenate([translation, fixed_angles(turn)], axis=1)


def slerp(first: Array, second: Array, share: Array) -> Array:
    """Unit quaternions (N, 4) on the shorter way from ``first`` to ``second`` (N, 4) after ``share`` (N,) of it."""
    first = first / np.linalg.norm(first, axis=1, keepdims=True)
    second = second / np.linalg.norm(second, axis=1, keepdims=True)
    dot = np.sum(first * second, axis=1)
    second = np.where(dot[:, None] < 0, -second, second)
    angle = np.arccos(np.clip(np.abs(dot), 0.0, 1.0))
    # Below a microradian the straight line is exact to the last digit, and the division below would not be.
    near = angle < 1e-6
    safe = np.where(near, 1.0, np.sin(angle))
    one = np.where(near, 1 - share, np.sin((1 - share) * angle) / safe)
    two = np.where(near, share, np.sin(share * angle) / safe)
    mixed = one[:, None] * first + two[:, None] * second
    return mixed / np.linalg.norm(mixed, axis=1, keepdims=True)


_LOCKED = 1.0 - 1e-6  # |sin(pitch)| from which roll and yaw turn about the same axis; yaw is then taken as 0


def matrix_from_angles(angles: np.ndarray) -> np.ndarray:
    """(..., 3) -> (..., 3, 3)."""
    (sr, sp, sy), (cr, cp, cy) = (np.moveaxis(f(angles), -1, 0) for f in (np.sin, np.cos))
    rows = [
        [cp * cy, sr * sp * cy - cr * sy, cr * sp * cy + sr * sy],
        [cp * sy, sr * sp * sy + cr * cy, cr * sp * sy - sr * cy],
        [-sp, sr * cp, cr * cp],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def matrix_from_quaternion(quaternion: np.ndarray) -> np.ndarray:
    """(..., 4), x y z w of unit length -> (..., 3, 3)."""
    x, y, z, w = np.moveaxis(quaternion, -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def angles_from_matrix(matrix: np.ndarray) -> np.ndarray:
    """(..., 3, 3) -> (..., 3), pitch in [-pi/2, pi/2]."""
    down = np.clip(matrix[..., 2, 0], -1.0, 1.0)
    locked = np.abs(down) > _LOCKED
    roll = np.arctan2(matrix[..., 2, 1], matrix[..., 2, 2])
    yaw = np.arctan2(matrix[..., 1, 0], matrix[..., 0, 0])
    lone = np.arctan2(-down * matrix[..., 0, 1], -down * matrix[..., 0, 2])
    return np.stack([np.where(locked, lone, roll), -np.arcsin(down), np.where(locked, 0.0, yaw)], axis=-1)


def angles_from_quaternion(quaternion: np.ndarray) -> np.ndarray:
    """(..., 4), x y z w of unit length -> (..., 3)."""
    return angles_from_matrix(matrix_from_quaternion(quaternion))


def in_wrist_frame(motion: np.ndarray, pose: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A motion in the base's axes, (T, 6), seen in the axes of an end effector at `pose` (T, 6).

    Translation R^-1 t, (T, 3), and rotation R^-1 dR R, (T, 3, 3) (reference: oxe/utils/droid_utils.py).
    """
    wrist = matrix_from_angles(pose[:, 3:6])
    back = np.swapaxes(wrist, -1, -2)
    return (back @ motion[:, :3, None])[..., 0], back @ (matrix_from_angles(motion[:, 3:6]) @ wrist)
