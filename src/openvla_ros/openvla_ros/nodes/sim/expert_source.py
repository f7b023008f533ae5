"""The scripted expert as a source of chunks: it labels every image, or commands the robot."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from builtin_interfaces.msg import Time
from openvla_msgs.msg import ActionChunk

from openvla_evaluation.suites.cubes import instruction_of_seed
from openvla_ros.control.ready_handshake import ReadyHandshake
from openvla_ros.nodes.common import action_messages
from openvla_ros.nodes.sim.parameters import ExpertParameters
from openvla_ros.sim.expert import Expert
from openvla_ros.sim.scene import Scene

STREAMING_SHARE = 0.4  # of the remaining motion, in one action


class ExpertSource:
    """Asks the expert once an image. Runs in the physics thread, since the expert reads the scene's true state."""

    def __init__(self, scene: Scene, parameters: Callable[[], ExpertParameters]) -> None:
        """Create a source without a target.

        Args:
            scene: The simulated scene.
            parameters: Gives the present parameters, some of which are live.
        """
        self._scene, self._expert, self._parameters = scene, Expert(scene), parameters
        self._sequence = {True: 0, False: 0}
        self._handshake = ReadyHandshake()
        self._streamed_ns = 0
        self._opening = 1.0  # at the image before
        self.begin("", 0)

    def begin(self, target: str, seed: int) -> None:
        """Start an episode.

        Args:
            target: Object to lift; '' for none.
            seed: Seed of the scene.
        """
        parameters = self._parameters()
        self._target, self._steps, self._seed = target, 0, seed
        self._noise = np.random.default_rng([parameters.noise.seed, seed])
        self._wander = int(self._noise.integers(0, parameters.wander + 1))

    def chunks(
        self, now_ns: int, observation: Time, ready_ns: int, done: bool
    ) -> tuple[list[ActionChunk], list[ActionChunk]]:
        """Labels of an image, and the command if one is due.

        Args:
            now_ns: Time on the node's clock [ns].
            observation: Stamp of the image.
            ready_ns: When the bridge became READY [ns]; 0 while it is not.
            done: Whether the task is done.

        Returns:
            Chunks for expert/action_chunk (labels), and for policy/action_chunk (commands).
        """
        parameters = self._parameters()
        if parameters.role == "off" or not self._target:
            return [], []
        labelled = self._scene.objects if parameters.label_all else (self._target,)
        labels = [self._chunk(self._expert.action(name), False, now_ns, observation, name) for name in labelled]
        commands = []
        if streaming := parameters.control == "streaming":
            due = now_ns - self._streamed_ns >= parameters.period * 1e9
        else:
            self._handshake.update(ready_ns)
            due = self._handshake.is_open(now_ns)
        left = parameters.max_steps == 0 or self._steps < parameters.max_steps
        if parameters.role == "act" and due and not done and left:
            if streaming:
                self._streamed_ns = now_ns
            else:
                self._handshake.mark_sent()
            self._steps += 1
            wandering = self._steps <= self._wander
            action = self._expert.wander(self._noise) if wandering else self._noisy(self._expert.action(self._target))
            if streaming:
                action = self._for_streaming(action)
            commands.append(self._chunk(action, True, now_ns, observation, self._target))
        return labels, commands

    def _for_streaming(self, action: np.ndarray) -> np.ndarray:
        """An action (7,) for an arm that still executes the one before: a share of it, and none while fingers move.

        The image shows the arm behind its target by the controller's lag. The whole remaining motion, commanded
        repeatedly, would overshoot.
        """
        opening, before = self._scene.gripper_opening(), self._opening
        self._opening = opening
        action = action.copy()
        action[:6] *= STREAMING_SHARE
        if action[6] < 0.5 and (opening > 0.75 or abs(opening - before) > 0.02):
            action[:6] = 0.0
        return action

    def _noisy(self, clean: np.ndarray) -> np.ndarray:
        action, noise = clean.copy(), self._parameters().noise
        if self._noise.random() < noise.probability:
            action[:3] += self._noise.normal(0.0, 1.0, 3) * noise.translation
            action[5] += self._noise.normal() * noise.rotation
        return action

    def _chunk(self, action: np.ndarray, is_command: bool, now_ns: int, observation: Time, target: str) -> ActionChunk:
        message = action_messages.chunk_message(
            [action], frame=self._scene.base_frame, at_ns=now_ns, observation=observation,
            sequence=self._sequence[is_command], source=ActionChunk.SOURCE_EXPERT,
            instruction=instruction_of_seed(self._seed, target), period=self._parameters().period,
        )  # fmt: skip
        self._sequence[is_command] += 1
        return message
