"""A leader arm or a tracked controller: its motion while the clutch is held, as steps of limited size.

Motion beyond one step is kept for the next, so that the steps add up to the leader's motion. A lag beyond `max_lag` is
dropped, so that the arm does not move on for long after the leader has stopped.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from openvla_ros.teleop.operator_input import DeviceError

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class LeaderPose:
    """Pose of the leader, in its own frame.

    Attributes:
        position: Position (3,) [m].
        rotation: Orientation.
    """

    position: Vector
    rotation: Rotation


class Follower:
    """Converts poses of a leader to steps along the leader's axes."""

    def __init__(self, scale: float = 1.0, max_lag: tuple[float, float] = (0.1, 0.5), max_jump: float = 0.15) -> None:
        """Start with a released clutch.

        Args:
            scale: Metres of the arm for a metre of the leader; rotations are never scaled.
            max_lag: Largest lag of the arm [m, rad].
            max_jump: Two poses farther apart [m] are a fault of the tracking, and are not followed.
        """
        self.scale, self.max_lag, self.max_jump = scale, max_lag, max_jump
        self._reference: LeaderPose | None = None  # pose that the arm has followed; None: the clutch is released
        self._newest: LeaderPose | None = None

    def update(self, pose: LeaderPose) -> None:
        """Take a pose of the leader.

        Args:
            pose: The pose.

        Raises:
            DeviceError: The leader jumped; the clutch is released.
        """
        before, self._newest = self._newest, pose
        if self._reference is None or before is None:
            return
        jump = float(np.linalg.norm(pose.position - before.position))
        if jump > self.max_jump:
            self.release()
            raise DeviceError(
                f"the leader jumped {jump:.2f} m (limit {self.max_jump:g}): release the clutch and hold it again"
            )

    def release(self) -> None:
        """Release the clutch: the leader moves nothing until the next step."""
        self._reference = None

    def reset(self) -> None:
        """Release the clutch and drop the newest pose, as the leader is silent."""
        self._reference = self._newest = None

    def step(self, largest: tuple[float, float]) -> tuple[Vector, Vector]:
        """The next step; the first one after the clutch is held is zero.

        Args:
            largest: Largest translation and rotation of the step [m, rad].

        Returns:
            Translation (3,) [m] and rotation vector (3,) [rad], along the leader's axes.

        Raises:
            DeviceError: There is no pose of the leader yet.
        """
        if self._newest is None:
            raise DeviceError("no pose of the leader yet")
        if self._reference is None:
            self._reference = self._newest
        behind, turn = self._behind(self._reference)
        move, rotation = _cut(self.scale * behind, largest[0]), _cut(turn, largest[1])
        self._reference = LeaderPose(
            self._reference.position + move / self.scale, Rotation.from_rotvec(rotation) * self._reference.rotation
        )
        self._drop_excess_lag()
        return move, rotation

    def _behind(self, reference: LeaderPose) -> tuple[Vector, Vector]:
        assert self._newest is not None
        turn = (self._newest.rotation * reference.rotation.inv()).as_rotvec()
        return self._newest.position - reference.position, turn

    def _drop_excess_lag(self) -> None:
        assert self._reference is not None and self._newest is not None
        behind, turn = self._behind(self._reference)
        kept, kept_turn = _cut(behind, self.max_lag[0] / self.scale), _cut(turn, self.max_lag[1])
        position, rotation = self._reference.position, self._reference.rotation
        if kept is not behind:
            position = self._newest.position - kept
        if kept_turn is not turn:
            rotation = Rotation.from_rotvec(-kept_turn) * self._newest.rotation
        self._reference = LeaderPose(position, rotation)


def _cut(vector: Vector, longest: float) -> Vector:
    """The vector, shortened to `longest`; the same object where it is short enough."""
    length = float(np.linalg.norm(vector))
    return vector if length <= longest else vector * (longest / length)
