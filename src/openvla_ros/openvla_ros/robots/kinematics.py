"""Where an arm's tool is, and which joint positions take it somewhere: damped least squares on mink's Jacobians.

The chain is built from a table (`arms`); mink computes frames and Jacobians on MuJoCo, which the simulator has anyway.
mink's own solver is a quadratic program with one constant damping. Here the damping is Nakamura & Hanafusa's ("Inverse
kinematic solutions with singularity robustness for robot manipulator control", J. Dyn. Sys. Meas. Control 108, 1986):
none while the arm is far from a singularity, growing as the smallest singular value falls, so that the tool gives way
there and the joints do not race.
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
TOLERANCE = 1e-5  # [m, rad] good enough
NEAR_SINGULAR = 0.05  # smallest singular value under which damping begins
DAMPING = 0.05  # its most
STEP = 0.15  # [rad] a joint moves at most an iteration


@dataclass(frozen=True)
class Solution:
    """Joint positions [rad], and how far the tool is from the goal then [m, rad]."""

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
        """`margin` [rad]: kept free at both ends of each joint's range."""
        self.arm = arm
        self._chain = Configuration(skeleton(arm).compile())
        self._low = np.array([joint.low + margin for joint in arm.joints])
        self._high = np.array([joint.high - margin for joint in arm.joints])

    def forward(self, positions: Sequence[float]) -> Pose:
        """The tool's pose in the base's frame. ValueError unless there is one finite position a joint."""
        if len(positions) != len(self.arm.joints) or not all(map(math.isfinite, positions)):
            names = ", ".join(self.arm.names)
            raise ValueError(f"no joint positions of {self.arm.name}: {list(positions)} for {names}")
        self._chain.update(np.asarray(positions, float))
        tool = self._chain.get_transform_frame_to_world("tool", "site")
        w, x, y, z = tool.rotation().wxyz
        return Pose.of(tool.translation(), (x, y, z, w))

    def solve(self, goal: Pose, start: Sequence[float], iterations: int = 50) -> Solution:
        """Joint positions near `start`, inside their ranges, that bring the tool to `goal`, or as near as they get.

        It walks from `start` and never jumps to another posture of the arm: a goal that only another posture reaches
        is not reached, which the solution's errors say.
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
        """What is missing to the goal (6,): translation [m], rotation vector [rad], along the tool's axes."""
        here = self.forward(q.tolist())
        (x, y, z), (a, b, c) = goal.position, here.position
        way: Vector = (x - a, y - b, z - c)
        turn = log(multiply(goal.quaternion, conjugate(here.quaternion)))
        to_tool = conjugate(here.quaternion)
        return np.array([*rotate(to_tool, way), *rotate(to_tool, turn)])

    def _step(self, error: Array, q: Array) -> Array:
        """The joints' way [rad] that takes `error` back, at the joints that `_error` looked at last."""
        jacobian = self._chain.get_frame_jacobian("tool", "site")
        while True:
            smallest = np.linalg.svd(jacobian, compute_uv=False)[-1]
            damping = DAMPING**2 * max(0.0, 1.0 - (smallest / NEAR_SINGULAR) ** 2) + 1e-9
            step = jacobian.T @ np.linalg.solve(jacobian @ jacobian.T + damping * np.eye(6), error)
            # A joint at the end of its range that would go on: solve again without it.
            stuck = ((q <= self._low) & (step < 0.0)) | ((q >= self._high) & (step > 0.0))
            stuck &= np.abs(jacobian).any(axis=0)
            if not stuck.any():
                return step * min(1.0, STEP / max(1e-12, float(np.abs(step).max())))
            jacobian[:, stuck] = 0.0
