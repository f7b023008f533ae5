"""What every runtime shares: how a next token is chosen, and what a runtime answers with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from ..contract.action_tokens import ActionTokenizer
from ..model.vla import OpenVLA

Vocabulary = Literal["full", "actions"]


@dataclass(frozen=True)
class Generated:
    """`ids` (B, count) on the CPU, and seconds spent by stage."""

    ids: Tensor
    timings: dict[str, float] = field(default_factory=dict)


class Runtime(Protocol):
    """Greedy decoding of `count` tokens for every row."""

    def generate(self, prompts: Sequence[Sequence[int]], pixels_BCHW: Tensor, count: int = 7) -> Generated:
        """Token ids that follow each prompt, seen each with its image."""
        ...


class Head:
    """The choice of the next token from a hidden state.

    `full` looks at the whole vocabulary, as the reference does, save that the end of the sequence is
    never chosen: an action has seven numbers (the reference, stopping early, reads prompt tokens as
    action). `actions` computes and compares only the action tokens' rows. `rank` 2 takes the
    second most likely token instead (paper, Appendix E, for policies that freeze).
    """

    def __init__(
        self,
        model: OpenVLA,
        tokens: ActionTokenizer,
        eos_id: int,
        vocabulary: Vocabulary = "full",
        rank: int = 1,
    ) -> None:
        if vocabulary not in get_args(Vocabulary):
            choices = ", ".join(get_args(Vocabulary))
            raise ValueError(f"vocabulary: {vocabulary!r} is unknown; choose one of {choices}")
        if not 1 <= rank <= tokens.bins:
            raise ValueError(f"rank: expected 1 (most likely) to {tokens.bins}, got {rank}")
        self.linear = model.language_model.lm_head
        self.first = tokens.first_id if vocabulary == "actions" else 0
        self.stop = tokens.last_id + 1 if vocabulary == "actions" else self.linear.weight.shape[0]
        self.eos = None if vocabulary == "actions" else eos_id
        self.rank = rank

    def logits(self, hidden_BD: Tensor) -> Tensor:
        """(B, D) -> (B, rows looked at), in float32."""
        if self.eos is None:
            return F.linear(hidden_BD, self.linear.weight[self.first : self.stop]).float()
        return self.linear(hidden_BD).float()

    def choose(self, hidden_BD: Tensor) -> Tensor:
        """(B, D) -> token ids (B,)."""
        logits_BV = self.logits(hidden_BD)
        if self.eos is not None:
            logits_BV[:, self.eos] = -torch.inf
        if self.rank == 1:
            return logits_BV.argmax(-1) + self.first
        return logits_BV.topk(self.rank, dim=-1).indices[:, -1] + self.first
