"""The one interface between something that decides and something that moves."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from openvla_policy.contract.action import ActionChunk
from openvla_policy.contract.observation import Observation


@runtime_checkable
class Policy(Protocol):
    """A local model, a remote client, a scripted expert or a replayed recording."""

    def predict(self, observation: Observation, instruction: str) -> ActionChunk:
        """Answer with the next actions for `instruction`, seen from `observation`."""
        ...

    def reset(self) -> None:
        """Forget whatever was kept between steps: a new episode begins."""
        ...
