"""Whether a request has what the policy reads: its cameras, its state, an instruction that fits."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from openvla_policy.contract.action import ACTION_DIM
from openvla_policy.contract.prompt import build_prompt
from openvla_policy.contract.statistics import choose
from openvla_policy.serving.json_codec import ActRequest


@dataclass(frozen=True)
class Inputs:
    """What a policy reads beside the primary image, and how many actions it answers with.

    Attributes:
        cameras: Names of the further cameras.
        state: Length of the state vector.
        chunk: Actions in an answer.
    """

    cameras: tuple[str, ...] = ()
    state: int = 0
    chunk: int = 1

    @classmethod
    def of(cls, policy: Any) -> Inputs:
        """The inputs of `policy`: none, unless it has OpenVLA-OFT's heads."""
        heads = getattr(policy, "heads", None)
        if heads is None:
            return cls()
        return cls(tuple(heads.config.cameras), int(heads.config.proprio), int(heads.config.chunk))


class RequestCheck:
    """Finds errors of one request that would otherwise fail the whole batch that it is in."""

    def __init__(self, policy: Any) -> None:
        self._policy = policy
        self.inputs = Inputs.of(policy)
        self._prompt_length = lru_cache(maxsize=256)(self._count_tokens)

    def __call__(self, request: ActRequest) -> None:
        """Check a request.

        Args:
            request: The request.

        Raises:
            ValueError: This policy cannot answer it; the message is one sentence for the client.
        """
        checkpoint, inputs = self._policy.checkpoint, self.inputs
        choose(checkpoint.statistics, request.unnorm_key or self._policy.unnorm_key)
        given = set(request.extra_images)
        if given != set(inputs.cameras):
            raise ValueError(f"extra_images: this policy reads {_names(inputs.cameras)}, got {_names(given)}")
        size = 0 if request.state is None else len(request.state)
        if size != inputs.state:
            raise ValueError(f"state: this policy reads {inputs.state or 'no'} numbers, got {size or 'none'}")
        config = checkpoint.model.config
        others = config.patches * (1 + len(inputs.cameras)) + bool(inputs.state) + ACTION_DIM * inputs.chunk
        length, limit = self._prompt_length(request.instruction), config.text.max_position_embeddings
        if length + others > limit:
            raise ValueError(
                f"instruction: its prompt has {length} tokens, the model has room for {limit - others}; shorten it"
            )

    def _count_tokens(self, instruction: str) -> int:
        prompt = build_prompt(instruction, self._policy.prompt_style)
        return len(self._policy.checkpoint.tokenizer.encode_prompt(prompt))


def _names(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in sorted(names))[:200] or "none"
