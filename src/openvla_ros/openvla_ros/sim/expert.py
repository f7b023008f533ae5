"""A scripted expert that lifts a named cube, from the simulator's true state.

It is a pure function of the present state, without phases, so that it can label any state that a policy reaches:
demonstrations and DAgger corrections (Ross et al., 2011) come from the same code.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from openvla_ros.sim.scene import Scene

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ExpertConfig:
    """Sizes of the expert's motions; distances [m] and angles [rad] are per action."""

    max_step: float = 0.10  # per translation axis
    max_turn: float = 0.30  # about each axis
    clearance: float = 0.075  # height of the finger tips above a cube's centre during travel
    grasp_height: float = 0.0  # above the cube's centre
    aligned: float = 0.012  # horizontal distance below which the gripper descends
    at_height: float = 0.010  # height error below which the fingers close
    yaw_dead_band: float = 0.08  # smaller rotations are not commanded: they are not visible in the image
    lift: float = 0.06
    wander_low: tuple[float, float, float] = (0.36, -0.20, 0.09)  # box of `Expert.wander`, base frame
    wander_high: tuple[float, float, float] = (0.62, 0.20, 0.28)


class Expert:
    """Computes actions: end-effector displacements in the base frame, as in openvla_policy.contract.action."""

    def __init__(self, scene: Scene, config: ExpertConfig | None = None) -> None:
        self._scene, self._config = scene, config or ExpertConfig(**scene.expert_settings)

    def action(self, target: str) -> Array:
        """The next action towards lifting a cube.

        Args:
            target: Name of the cube.

        Returns:
            Action (7,): Δxyz [m], Δrpy [rad], gripper 0 closed … 1 open; base frame.

        Raises:
            ValueError: There is no such cube.
        """
        if target not in self._scene.objects:
            raise ValueError(f"no cube is called {target!r}: choose one of {', '.join(self._scene.objects)}")
        cfg = self._config
        cube, cube_yaw = self._scene.object_pose(target)
        position, quaternion = self._scene.ee_pose()
        delta = cube - position
        distance, height = float(np.hypot(*delta[:2])), -delta[2]
        opening = self._scene.gripper_opening()
        around = distance < 0.025 and abs(height) < 0.022
        holding = around and 0.3 < opening < 0.75
        turn = self._turn(Rotation.from_quat(quaternion), cube_yaw)
        if holding or (around and opening > 0.75 and distance < 2 * cfg.aligned and height < cfg.at_height):
            # Close and lift in one action: the bridge closes the gripper before the arm moves (gripper.first). Whether
            # the fingers touch the cube is hardly visible, so the action does not depend on it.
            return self._pack(np.array([0.0, 0.0, cfg.lift]), 0.0, 0.0)
        if opening < 0.75 and distance < 0.06 and height < cfg.clearance:
            # Closed beside the cube: open before moving on.
            return self._pack(np.zeros(3), 0.0, 1.0)
        if distance < cfg.aligned or (distance < 2 * cfg.aligned and height < 0.045):
            goal_height = cfg.grasp_height
        else:
            goal_height = cfg.clearance
        motion = np.array([delta[0], delta[1], goal_height - height])
        if goal_height > 0 and height < 0.05 and distance > 2 * cfg.aligned:
            motion[:2] = 0.0  # beside or on a cube: go up first
        return self._pack(motion, turn, 1.0)

    def wander(self, rng: np.random.Generator) -> Array:
        """A random action with an open gripper, towards a random place above the table.

        Executed before the task, it spreads the states that are labelled: an undisturbed demonstration reaches its cube
        in two or three actions and contains little travel.

        Args:
            rng: Source of randomness.

        Returns:
            Action (7,): Δxyz [m], Δrpy [rad], gripper 0 closed … 1 open; base frame.
        """
        cfg = self._config
        position, quaternion = self._scene.ee_pose()
        goal = rng.uniform(cfg.wander_low, cfg.wander_high)
        yaw = self._yaw(Rotation.from_quat(quaternion))
        turn = rng.uniform(-1.0, 1.0) * self._scene.config.start_yaw - yaw
        return self._pack(goal - position, turn, 1.0)

    def _yaw(self, orientation: Rotation) -> float:
        """Angle [rad] of the fingers' axis about the vertical, 0 as at the start of an unperturbed episode."""
        x_axis = (orientation * self._scene.down.inv()).as_matrix()[:, 0]
        return float(np.arctan2(x_axis[1], x_axis[0]))

    def _turn(self, orientation: Rotation, cube_yaw: float) -> float:
        """Yaw [rad] that aligns the fingers with the nearest pair of the cube's faces, 0 inside the dead band."""
        error = cube_yaw - self._yaw(orientation)
        error = (error + np.pi / 4) % (np.pi / 2) - np.pi / 4
        return 0.0 if abs(error) < self._config.yaw_dead_band else float(error)

    def _pack(self, motion: Array, yaw: float, gripper: float) -> Array:
        cfg = self._config
        translation = np.clip(motion, -cfg.max_step, cfg.max_step)
        return np.array([*translation, 0.0, 0.0, np.clip(yaw, -cfg.max_turn, cfg.max_turn), gripper])
