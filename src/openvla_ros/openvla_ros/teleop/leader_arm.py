"""A leader arm or a tracked hand: its motion while the clutch is held, as steps of limited size.

What one step cannot hold is kept for the next, so the steps add up to the hand's motion; what is farther behind than
``max_lag`` is forgotten, so that the arm never goes on for long after the hand has stopped.
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
    """Position [m] and orientation of the leader, in a frame of its own."""

    position: Vector
    rotation: Rotation


class Follower:
    """Turns poses of a leader into steps in the leader's own axes."""

    def __init__(self, scale: float = 1.0, max_lag: tuple[float, float] = (0.1, 0.5), max_jump: float = 0.15) -> None:
        """``scale``: metres of the arm for a metre of the hand; rotations are never scaled.

        ``max_lag``: how far the arm may be behind [m, rad]. ``max_jump``: two poses farther apart [m] are a fault of
        the tracking, and are not followed.
        """
        self.scale, self.max_lag, self.max_jump = scale, max_lag, max_jump
        self._reference: LeaderPose | None = None  # how far the arm has followed; None: the clutch is out
        self._newest: LeaderPose | None = None

    def seen(self, pose: LeaderPose) -> None:
        """Take a pose of the leader.

        Raises:
            DeviceError: it is no pose that a hand can have come to; the clutch is let out.
        """
        before, self._newest = self._newest, pose
        if self._reference is None or before is None:
            return
        jump = float(np.linalg.norm(pose.position - before.position))
        if jump > self.max_jump:
            self.release()
            raise DeviceError(
                f"the leader jumped {jump:.2f} m (limit {self.max_jump:g}): let the clutch go and hold it"
            )

    def release(self) -> None:
        """The clutch is let out: what the hand does now moves nothing."""
        self._reference = None

    def forget(self) -> None:
        """The leader went silent: its newest pose no longer counts."""
        self._reference = self._newest = None

    def step(self, largest: tuple[float, float]) -> tuple[Vector, Vector]:
        """The next step, at most ``largest`` [m, rad]: translation (3,) and rotation vector (3,), leader's axes.

        The first one after the clutch was let in is always zero: motion counts from there.

        Raises:
            DeviceError: no pose of the leader has come yet.
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
        self._forget_what_is_too_far()
        return move, rotation

    def _behind(self, reference: LeaderPose) -> tuple[Vector, Vector]:
        assert self._newest is not None
        turn = (self._newest.rotation * reference.rotation.inv()).as_rotvec()
        return self._newest.position - reference.position, turn

    def _forget_what_is_too_far(self) -> None:
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
    """The vector, no longer than that; the very same object when it is not."""
    length = float(np.linalg.norm(vector))
    return vector if length <= longest else vector * (longest / length)
