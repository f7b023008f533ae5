"""Rotations of whole trajectories in numpy: fixed-axis XYZ angles, quaternions x y z w, matrices.

Angles [rad] are roll, pitch, yaw about the fixed axes: R = Rz(yaw) Ry(pitch) Rx(roll), the convention of the
reference's data code (which calls tensorflow_graphics' `euler` and `rotation_matrix_3d`).
"""

from __future__ import annotations

import numpy as np

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
