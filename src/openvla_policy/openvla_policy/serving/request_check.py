"""Whether a request brings what the policy reads: its cameras, its state, an instruction that fits."""

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
    """What a policy reads beside the image: further cameras by name, so many numbers of state, and its chunk."""

    cameras: tuple[str, ...] = ()
    state: int = 0
    chunk: int = 1

    @classmethod
    def of(cls, policy: Any) -> Inputs:
        """What `policy` reads: nothing more, unless it has heads that do (OpenVLA-OFT)."""
        heads = getattr(policy, "heads", None)
        if heads is None:
            return cls()
        return cls(tuple(heads.config.cameras), int(heads.config.proprio), int(heads.config.chunk))


class InputCheck:
    """Finds what would end the whole batch that a request is in, before it is in one."""

    def __init__(self, policy: Any) -> None:
        self._policy = policy
        self.inputs = Inputs.of(policy)
        self._prompt_length = lru_cache(maxsize=256)(self._count_tokens)

    def __call__(self, asked: ActRequest) -> None:
        """Raise ValueError with one sentence for a request that this policy cannot answer."""
        checkpoint, inputs = self._policy.checkpoint, self.inputs
        choose(checkpoint.statistics, asked.unnorm_key or self._policy.unnorm_key)
        given = set(asked.extra_images)
        if given != set(inputs.cameras):
            raise ValueError(f"extra_images: this policy reads {_names(inputs.cameras)}, got {_names(given)}")
        size = 0 if asked.state is None else len(asked.state)
        if size != inputs.state:
            raise ValueError(f"state: this policy reads {inputs.state or 'no'} numbers, got {size or 'none'}")
        config = checkpoint.model.config
        others = config.patches * (1 + len(inputs.cameras)) + bool(inputs.state) + ACTION_DIM * inputs.chunk
        length, limit = self._prompt_length(asked.instruction), config.text.max_position_embeddings
        if length + others > limit:
            raise ValueError(
                f"instruction: its prompt has {length} tokens, the model has room for {limit - others}; shorten it"
            )

    def _count_tokens(self, instruction: str) -> int:
        prompt = build_prompt(instruction, self._policy.prompt_style)
        return len(self._policy.checkpoint.tokenizer.encode_prompt(prompt))


def _names(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in sorted(names))[:200] or "none"
