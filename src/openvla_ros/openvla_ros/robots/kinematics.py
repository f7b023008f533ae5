"""Forward and inverse kinematics of an arm: damped least squares on mink's Jacobians.

The chain is built from a table (`arms`); mink computes frames and Jacobians on MuJoCo, which the simulator has anyway.
mink's own solver is a quadratic program with a constant damping. Here the damping is Nakamura & Hanafusa's ("Inverse
kinematic solutions with singularity robustness for robot manipulator control", J. Dyn. Sys. Meas. Control 108, 1986):
zero far from a singularity, growing as the smallest singular value falls, so that near one the tool deviates instead of
the joints moving fast.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import mujoco
import numpy as np
from mink import Configuration
from numpy.typing import NDArray

from openvla_ros.geometry import Pose, Vector, conjugate, log, multiply, rotate
from openvla_ros.robots.arms import Arm

Array = NDArray[np.float64]
TOLERANCE = 1e-5  # [m, rad] of the solution
NEAR_SINGULAR = 0.05  # smallest singular value under which damping begins
DAMPING = 0.05  # its maximum
STEP = 0.15  # [rad] largest motion of a joint in an iteration


@dataclass(frozen=True)
class Solution:
    """Joint positions [rad], and the tool's remaining distance [m] and angle [rad] from the goal."""

    positions: tuple[float, ...]
    distance: float
    angle: float


def skeleton(arm: Arm) -> mujoco.MjSpec:
    """The arm as MuJoCo bodies named like their joints, with a site `tool` and no shapes."""
    spec = mujoco.MjSpec()
    spec.compiler.degree = False
    body = spec.worldbody
    for joint in arm.joints:
        body = body.add_body(name=joint.name, pos=list(joint.offset), mass=0.1, inertia=[1e-4] * 3)
        body.add_joint(
            name=joint.name, type=mujoco.mjtJoint.mjJNT_HINGE, axis=list(joint.axis),
            range=[joint.low, joint.high], limited=mujoco.mjtLimited.mjLIMITED_TRUE,
        )  # fmt: skip
    body.add_site(name="tool", pos=list(arm.tool))
    return spec


class Kinematics:
    """Forward and inverse kinematics of one arm. Not thread safe."""

    def __init__(self, arm: Arm, margin: float = 0.03) -> None:
        """Build the chain.

        Args:
            arm: The arm's table.
            margin: Kept free at both ends of each joint's range [rad].
        """
        self.arm = arm
        self._chain = Configuration(skeleton(arm).compile())
        self._low = np.array([joint.low + margin for joint in arm.joints])
        self._high = np.array([joint.high - margin for joint in arm.joints])

    def forward(self, positions: Sequence[float]) -> Pose:
        """Compute the tool's pose in the base frame.

        Args:
            positions: One finite position per joint [rad].

        Returns:
            The pose.

        Raises:
            ValueError: A position is missing or not finite.
        """
        if len(positions) != len(self.arm.joints) or not all(map(math.isfinite, positions)):
            names = ", ".join(self.arm.names)
            raise ValueError(f"no joint positions of {self.arm.name}: {list(positions)} for {names}")
        self._chain.update(np.asarray(positions, float))
        tool = self._chain.get_transform_frame_to_world("tool", "site")
        w, x, y, z = tool.rotation().wxyz
        return Pose.of(tool.translation(), (x, y, z, w))

    def solve(self, goal: Pose, start: Sequence[float], iterations: int = 50) -> Solution:
        """Find joint positions near `start` that bring the tool to a goal, or as near as they get.

        The solver moves continuously from `start` and never jumps to another posture of the arm: a goal that only
        another posture reaches is not reached, which the solution's errors show.

        Args:
            goal: Pose of the tool, base frame.
            start: Joint positions to start from [rad].
            iterations: Largest number of steps.

        Returns:
            The best positions found, inside the joints' ranges.
        """
        q = np.clip(np.asarray(start, float), self._low, self._high)
        best: tuple[float, Array, float, float] | None = None
        for _ in range(iterations):
            error = self._error(goal, q)
            distance, angle = float(np.linalg.norm(error[:3])), float(np.linalg.norm(error[3:]))
            if best is None or distance + 0.2 * angle < best[0]:
                best = (distance + 0.2 * angle, q.copy(), distance, angle)
            if distance < TOLERANCE and angle < TOLERANCE:
                break
            step = self._step(error, q)
            if np.abs(step).max() < 1e-9:
                break
            q = np.clip(q + step, self._low, self._high)
        assert best is not None
        return Solution(tuple(float(v) for v in best[1]), best[2], best[3])

    def _error(self, goal: Pose, q: Array) -> Array:
        """Error of the tool (6,): translation [m], rotation vector [rad], along the tool's axes."""
        here = self.forward(q.tolist())
        (x, y, z), (a, b, c) = goal.position, here.position
        way: Vector = (x - a, y - b, z - c)
        turn = log(multiply(goal.quaternion, conjugate(here.quaternion)))
        to_tool = conjugate(here.quaternion)
        return np.array([*rotate(to_tool, way), *rotate(to_tool, turn)])

    def _step(self, error: Array, q: Array) -> Array:
        """Joint motion [rad] that reduces `error`, at the joint positions of the last call of `_error`."""
        jacobian = self._chain.get_frame_jacobian("tool", "site")
        while True:
            smallest = np.linalg.svd(jacobian, compute_uv=False)[-1]
            damping = DAMPING**2 * max(0.0, 1.0 - (smallest / NEAR_SINGULAR) ** 2) + 1e-9
            step = jacobian.T @ np.linalg.solve(jacobian @ jacobian.T + damping * np.eye(6), error)
            # A joint at the end of its range that would move beyond it: solve again without it.
            stuck = ((q <= self._low) & (step < 0.0)) | ((q >= self._high) & (step > 0.0))
            stuck &= np.abs(jacobian).any(axis=0)
            if not stuck.any():
                return step * min(1.0, STEP / max(1e-12, float(np.abs(step).max())))
            jacobian[:, stuck] = 0.0
