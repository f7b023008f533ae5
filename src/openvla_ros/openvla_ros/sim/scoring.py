"""Decides which cubes are lifted. Besides the expert, the only user of the true object poses."""

from __future__ import annotations

import numpy as np

from openvla_ros.sim.scene import Scene

LIFTED_HEIGHT = 0.06  # [m] of the cube's centre above its resting height
HOLD_TIME = 0.3  # [s] it must stay there, so that a thrown cube does not count
DISTURBED_DISTANCE = 0.02  # [m] beyond which a cube that is not lifted counts as disturbed


class Scorer:
    """Call `update` at least every 0.1 s of simulated time, and `reset` after a reset of the scene."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self.reset()

    def reset(self) -> None:
        """Start to score an episode."""
        self._since: dict[str, float] = {}
        self._start = {name: self._scene.object_pose(name)[0] for name in self._scene.objects}

    def update(self) -> None:
        """Measure the cubes' heights."""
        rest = self._scene.config.cube_size / 2
        for name in self._scene.objects:
            height = self._scene.object_pose(name)[0][2] - rest
            if height >= LIFTED_HEIGHT:
                self._since.setdefault(name, self._scene.time)
            else:
                self._since.pop(name, None)

    @property
    def lifted(self) -> dict[str, bool]:
        """Whether each cube is lifted now, and has been for the hold time."""
        return {
            name: name in self._since and self._scene.time - self._since[name] >= HOLD_TIME
            for name in self._scene.objects
        }

    @property
    def disturbed(self) -> tuple[str, ...]:
        """Cubes that are away from where the episode began, and not lifted."""
        lifted = self.lifted
        return tuple(
            name
            for name in self._scene.objects
            if not lifted[name]
            and np.linalg.norm(self._scene.object_pose(name)[0] - self._start[name]) > DISTURBED_DISTANCE
        )
