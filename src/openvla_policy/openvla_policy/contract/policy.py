"""The interface between what decides and what moves a robot."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from openvla_policy.contract.action import ActionChunk
from openvla_policy.contract.observation import Observation


@runtime_checkable
class Policy(Protocol):
    """A local model, a remote client, a scripted expert or a replayed recording."""

    def predict(self, observation: Observation, instruction: str) -> ActionChunk:
        """Predict the next actions for `instruction` from `observation`."""
        ...

    def reset(self) -> None:
        """Begin a new episode: drop everything kept between steps."""
        ...
