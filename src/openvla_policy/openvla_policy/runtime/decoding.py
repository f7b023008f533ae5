"""What all runtimes share: the choice of the next token, the checks of a request, and what a runtime returns."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor

from openvla_policy.contract.action_tokens import ActionTokenizer
from openvla_policy.model.linear import linear
from openvla_policy.model.vla import OpenVLA

Vocabulary = Literal["full", "actions"]
Prompts = Sequence[Sequence[int]]
Guesses = Sequence[Sequence[int] | None] | None

_CANDIDATES = 64  # rows compared again in float32; more tokens than ever share the largest 16-bit logit


@dataclass(frozen=True)
class Generated:
    """The tokens that a runtime decoded.

    Attributes:
        ids: (B, count) token ids, on the CPU.
        timings: Seconds by stage: vision, prefill, decode.
        passes: Forward passes of the language model after the prefill.
        accepted: Guessed tokens of each row that the prefill confirmed; empty for runtimes that do not guess.
    """

    ids: Tensor
    timings: dict[str, float] = field(default_factory=dict)
    passes: int = 0
    accepted: tuple[int, ...] = ()


class Head:
    """Chooses the next token from a hidden state.

    Vocabulary `full` compares all tokens, as the reference does, except that it never ends the sequence: an action
    has seven numbers (the reference, stopping early, reads prompt tokens as action). `actions` computes and compares
    the rows of action tokens only. Rank 2 takes the second most likely token (paper, Appendix E, for policies that
    freeze).
    """

    def __init__(
        self,
        model: OpenVLA,
        tokens: ActionTokenizer,
        eos_id: int,
        vocabulary: Vocabulary = "full",
        rank: int = 1,
    ) -> None:
        """Use the head of `model`.

        Args:
            model: The network.
            tokens: The action tokens of its vocabulary.
            eos_id: The end-of-sequence token.
            vocabulary: Which tokens may be chosen.
            rank: 1 for the most likely token, 2 for the second, and so on.

        Raises:
            ValueError: The vocabulary is unknown or the rank out of range.
        """
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

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., compared rows), in float32."""
        if self.eos is None:
            # In float32 throughout, see `choose`. The cost of 256 rows is negligible.
            return linear(hidden.float(), self.linear.weight[self.first : self.stop].float())
        return self.linear(hidden).float()

    def choose(self, hidden: Tensor) -> Tensor:
        """Choose the next tokens, always by logits in float32.

        Logits of neighbouring bins often differ by less than bf16 resolves. The first of equal ones would win,
        whichever way the products were rounded.

        Args:
            hidden: (..., D).

        Returns:
            Token ids (...).
        """
        logits = self.logits(hidden)
        if self.eos is not None:
            logits[..., self.eos] = -torch.inf
            if hidden.dtype != torch.float32:
                return self._choose_in_float32(hidden, logits, self.eos)
        if self.rank == 1:
            return logits.argmax(-1) + self.first
        return logits.topk(self.rank, dim=-1).indices[..., -1] + self.first

    def _choose_in_float32(self, hidden: Tensor, logits: Tensor, excluded: int) -> Tensor:
        """Compare the best rows by 16-bit logits. All rows in float32 would be twice the bytes of a decoding step."""
        count = min(max(_CANDIDATES, 2 * self.rank), logits.shape[-1])
        ids = logits.topk(count, dim=-1).indices
        weight = self.linear.weight[ids].float()
        exact = (weight @ hidden.float()[..., None])[..., 0].masked_fill_(ids == excluded, -torch.inf)
        return ids.gather(-1, exact.topk(self.rank, dim=-1).indices[..., -1:])[..., 0]


class Runtime(ABC):
    """Greedy decoding of a fixed number of tokens for every row. All runtimes decode the same tokens."""

    def __init__(self, model: OpenVLA, head: Head) -> None:
        self.model, self.head = model, head

    @torch.inference_mode()
    def generate(self, prompts: Prompts, pixels_BCHW: Tensor, count: int = 7, guesses: Guesses = None) -> Generated:
        """Decode the tokens that follow each prompt with its image.

        Args:
            prompts: Token ids of each row, of any length.
            pixels_BCHW: The prepared image of each row.
            count: Tokens to decode for each row.
            guesses: The tokens with which each row may answer, of any length; None: no guess. They change how
                fast `draft` decodes, and never what any runtime decodes.

        Returns:
            The tokens, with timings.

        Raises:
            ValueError: The rows do not match in number, or do not fit the model's positions.
        """
        if not len(prompts) or len(prompts) != len(pixels_BCHW) or not all(map(len, prompts)):
            raise ValueError(f"{len(prompts)} prompts (none may be empty) for {len(pixels_BCHW)} images")
        if count < 1:
            raise ValueError(f"count: expected at least 1 token, got {count}")
        if guesses is not None and len(guesses) != len(prompts):
            raise ValueError(f"{len(guesses)} guesses for {len(prompts)} prompts")
        needed = max(map(len, prompts)) + self.model.config.patches + count
        limit = self.model.config.text.max_position_embeddings
        if needed > limit:
            raise ValueError(f"the prompt needs {needed} of the model's {limit} positions; shorten it")
        return self._generate(prompts, pixels_BCHW, count, guesses)

    @abstractmethod
    def _generate(self, prompts: Prompts, pixels_BCHW: Tensor, count: int, guesses: Guesses) -> Generated:
        """Decode a request that is consistent and fits the model."""


class Stopwatch:
    """Seconds between marks. On a GPU by events of its stream, so that measuring never makes the CPU wait."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._marks: list[tuple[str, float | torch.cuda.Event]] = []
        self.mark("")

    def mark(self, stage: str) -> None:
        """End `stage` here."""
        if not self._cuda:
            self._marks.append((stage, time.perf_counter()))
            return
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        self._marks.append((stage, event))

    def read(self) -> dict[str, float]:
        """Seconds by stage; on a GPU waits for the last mark."""
        spent: dict[str, float] = {}
        if self._cuda:
            self._marks[-1][1].synchronize()  # type: ignore[union-attr]
        for (_, before), (stage, after) in pairwise(self._marks):
            seconds = before.elapsed_time(after) / 1e3 if self._cuda else after - before  # type: ignore
            spent[stage] = spent.get(stage, 0.0) + seconds
        return spent
