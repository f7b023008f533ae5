"""Axes along which a device moves the arm: the rotation from the device's axes to the robot's base frame."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.spatial.transform import Rotation

BASE, END_EFFECTOR, CAMERA, CUSTOM = FRAMES = ("base", "end_effector", "camera", "custom")


def device_rotation(
    frame: str,
    yaw: float = 0.0,
    matrix: Sequence[float] = (1, 0, 0, 0, 1, 0, 0, 0, 1),
    camera_position: Sequence[float] = (1.0, 0.0, 0.5),
    camera_look_at: Sequence[float] = (0.0, 0.0, 0.0),
) -> Rotation:
    """The fixed part of the rotation; for `end_effector` the measured orientation is multiplied from the left.

    Device axes: x forward, y left, z up. With `camera` forward is away from the camera, level with the table, and left
    is left in the image.

    Args:
        frame: One of `FRAMES`.
        yaw: Rotates the device's axes about z first [rad]: where the operator stands.
        matrix: For `custom`: row by row; its columns are the device's axes in the base frame.
        camera_position: For `camera`: position of the camera, base frame [m].
        camera_look_at: For `camera`: the point in the middle of its image, base frame [m].

    Returns:
        The rotation.

    Raises:
        ValueError: The frame is unknown, the matrix is no rotation, or the camera looks straight up or down.
    """
    if frame not in FRAMES:
        raise ValueError(f"frame '{frame}' is unknown; choices: {', '.join(FRAMES)}")
    turned = Rotation.from_euler("z", yaw)
    if frame == CUSTOM:
        array = np.array(matrix, float).reshape(3, 3)
        if not np.allclose(array @ array.T, np.eye(3), atol=1e-3) or np.linalg.det(array) < 0:
            raise ValueError(f"frame.matrix {list(matrix)} is no rotation (orthogonal, determinant +1)")
        return Rotation.from_matrix(array) * turned
    if frame == CAMERA:
        ahead = np.array(camera_look_at, float) - np.array(camera_position, float)
        if math.hypot(ahead[0], ahead[1]) < 0.1 * float(np.linalg.norm(ahead)):
            raise ValueError(
                "the camera looks straight along the base's z: forward in its image is not defined; set frame to "
                "'base' with frame.yaw"
            )
        return Rotation.from_euler("z", math.atan2(ahead[1], ahead[0])) * turned
    return turned
