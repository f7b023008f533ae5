"""Operational-space impedance control of a 7-joint arm in MuJoCo.

The law is Khatib's operational-space control (IEEE J. Robotics and Automation 3(1), 1987): a unit-mass
spring-damper in task space, scaled by the task-space inertia, plus a posture spring in its null space.
"""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ImpedanceGains:
    """Natural frequencies [rad/s] of the critically damped task-space and posture springs."""

    translation: float = 28.0
    rotation: float = 28.0
    posture: float = 4.0
    torque_limit: tuple[float, ...] = (87.0, 87.0, 87.0, 87.0, 12.0, 12.0, 12.0)  # [N m] Panda data sheet


class CartesianImpedance:
    """Pulls a site towards a pose. Works on the first seven degrees of freedom of the model, the arm."""

    DOF = 7

    def __init__(self, model: mujoco.MjModel, site: int, posture: Array, gains: ImpedanceGains) -> None:
        self._model, self._site, self._posture, self._gains = model, site, posture, gains
        self._limit = np.minimum(gains.torque_limit, model.actuator_ctrlrange[: self.DOF, 1])
        self._jacobian = np.zeros((6, model.nv))
        self._mass = np.zeros((model.nv, model.nv))

    def apply(self, data: mujoco.MjData, position: Array, quaternion: Array) -> None:
        """Write the joint torques that pull the site towards `position` (3,), `quaternion` x y z w (4,)."""
        n, gains = self.DOF, self._gains
        jacobian = self._site_jacobian(data)
        mujoco.mj_fullM(self._model, self._mass, data.qM)
        mass = self._mass[:n, :n]
        velocity = data.qvel[:n]
        error = self._error(data, position, quaternion)
        twist = jacobian @ velocity
        w = np.repeat([gains.translation, gains.rotation], 3)
        minv_jt = np.linalg.solve(mass, jacobian.T)
        # Damped inverse: bounds the force near a singularity, at the cost of accuracy.
        inertia = np.linalg.inv(jacobian @ minv_jt + 1e-4 * np.eye(6))
        torque = jacobian.T @ (inertia @ (w * w * error - 2 * w * twist))
        p = gains.posture
        rest = mass @ (p * p * (self._posture - data.qpos[:n]) - 2 * p * velocity)
        torque += rest - jacobian.T @ (inertia @ (minv_jt.T @ rest))
        data.ctrl[:n] = np.clip(torque + data.qfrc_bias[:n], -self._limit, self._limit)

    def solve_pose(
        self, data: mujoco.MjData, position: Array, orientation: Rotation, joints: NDArray[np.int64]
    ) -> None:
        """Set the joints, without physics, so that the site is at a pose (damped least squares).

        Args:
            data: State of the model, which is changed.
            position: Position of the site (3,) [m], base frame.
            orientation: Orientation of the site, base frame.
            joints: Indices of the arm's joints in `qpos`.

        Raises:
            ValueError: The pose is out of the arm's reach.
        """
        quaternion = orientation.as_quat()
        for _ in range(100):
            mujoco.mj_kinematics(self._model, data)
            mujoco.mj_comPos(self._model, data)
            error = self._error(data, position, quaternion)
            if np.abs(error).max() < 1e-5:
                return
            jacobian = self._site_jacobian(data)
            data.qpos[joints] += jacobian.T @ np.linalg.solve(jacobian @ jacobian.T + 1e-4 * np.eye(6), error)
        raise ValueError(
            f"no joint positions reach the pose {position.tolist()}: the remaining error is {error.tolist()}"
        )

    def _site_jacobian(self, data: mujoco.MjData) -> Array:
        mujoco.mj_jacSite(self._model, data, self._jacobian[:3], self._jacobian[3:], self._site)
        return self._jacobian[:, : self.DOF]

    def _error(self, data: mujoco.MjData, position: Array, quaternion: Array) -> Array:
        """Pose error (6,): translation [m] and rotation vector [rad], both in the base frame."""
        current = np.empty(4)
        mujoco.mju_mat2Quat(current, data.site_xmat[self._site])
        conjugate, difference, rotation = np.empty(4), np.empty(4), np.empty(3)
        mujoco.mju_negQuat(conjugate, current)
        mujoco.mju_mulQuat(difference, np.roll(quaternion, 1), conjugate)
        mujoco.mju_quat2Vel(rotation, difference, 1.0)
        return np.concatenate([position - data.site_xpos[self._site], rotation])
