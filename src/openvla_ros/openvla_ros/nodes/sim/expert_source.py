"""The scripted expert as a source of chunks: labels every picture, or commands the robot by the blocking handshake."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from openvla_msgs.msg import ActionChunk

from openvla_evaluation.suites.cubes import instruction_of_seed
from openvla_ros.control.ready_handshake import ReadyHandshake
from openvla_ros.nodes.common import action_messages
from openvla_ros.sim.expert import Expert
from openvla_ros.sim.scene import Scene

STREAMING_SHARE = 0.4  # of what is missing, asked for in one action


@dataclass(frozen=True)
class Said:
    """A chunk, and whether it is a command (policy/action_chunk) or a label (expert/action_chunk)."""

    message: ActionChunk
    acts: bool


class Demonstrator:
    """Asks the expert once a picture. Lives in the world's thread: it reads the scene's private state."""

    def __init__(self, scene: Scene, get: Callable[[str], Any]) -> None:
        self._scene, self._expert, self._get = scene, Expert(scene), get
        self._sequence = {True: 0, False: 0}
        self._handshake = ReadyHandshake()
        self._streamed_ns = 0
        self._opening = 1.0  # in the picture before
        self.begin("", 0)

    def begin(self, target: str, seed: int) -> None:
        """A new episode: go for `target` ('' = nothing)."""
        self._target, self._steps, self._seed = target, 0, seed
        self._noise = np.random.default_rng([self._get("expert.noise.seed"), seed])
        self._wander = int(self._noise.integers(0, self._get("expert.wander") + 1))

    def answer(self, now_ns: int, observation: Time, ready_ns: int, done: bool) -> list[Said]:
        """What there is to say about the picture stamped `observation`. ready_ns: 0 while the bridge is not READY."""
        role = self._get("expert.role")
        if role == "off" or not self._target:
            return []
        labelled = self._scene.objects if self._get("expert.label_all") else (self._target,)
        said = [self._said(self._expert.action(name), False, now_ns, observation, name) for name in labelled]
        limit = self._get("expert.max_steps")
        if streaming := self._get("expert.control") == "streaming":
            may_act = now_ns - self._streamed_ns >= self._get("expert.period") * 1e9
        else:
            self._handshake.update(ready_ns)
            may_act = self._handshake.is_open(now_ns)
        if role == "act" and may_act and not done and (limit == 0 or self._steps < limit):
            if streaming:
                self._streamed_ns = now_ns
            else:
                self._handshake.mark_sent()
            self._steps += 1
            wandering = self._steps <= self._wander
            acted = self._expert.wander(self._noise) if wandering else self._noisy(self._expert.action(self._target))
            if streaming:
                acted = self._in_motion(acted)
            said.append(self._said(acted, True, now_ns, observation, self._target))
        return said

    def _in_motion(self, action: np.ndarray) -> np.ndarray:
        """An action for an arm that is still executing the one before: less of it, and no way before the hand is done.

        The picture shows the arm a controller's lag behind its target; the whole of what it seems to lack, sent again
        and again, would overshoot.
        """
        opening, before = self._scene.gripper_opening(), self._opening
        self._opening = opening
        action = action.copy()
        action[:6] *= STREAMING_SHARE
        if action[6] < 0.5 and (opening > 0.75 or abs(opening - before) > 0.02):
            action[:6] = 0.0
        return action

    def _noisy(self, clean: np.ndarray) -> np.ndarray:
        action = clean.copy()
        if self._noise.random() < self._get("expert.noise.probability"):
            action[:3] += self._noise.normal(0.0, 1.0, 3) * self._get("expert.noise.translation")
            action[5] += self._noise.normal() * self._get("expert.noise.rotation")
        return action

    def _said(self, action: np.ndarray, acts: bool, now_ns: int, observation: Time, target: str) -> Said:
        message = action_messages.chunk_message(
            [action], frame=self._scene.base_frame, at_ns=now_ns, observation=observation,
            sequence=self._sequence[acts], source=ActionChunk.SOURCE_EXPERT,
            instruction=instruction_of_seed(self._seed, target), period=self._get("expert.period"),
        )  # fmt: skip
        self._sequence[acts] += 1
        return Said(message, acts)
