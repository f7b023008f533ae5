"""What every runtime shares: how a next token is chosen, and what a runtime answers with."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor

from openvla_policy.contract.action_tokens import ActionTokenizer
from openvla_policy.model.linear import linear
from openvla_policy.model.vla import OpenVLA

Vocabulary = Literal["full", "actions"]


@dataclass(frozen=True)
class Generated:
    """`ids` (B, count) on the CPU, and seconds spent by stage: vision, prefill, decode.

    `passes` counts the forwards of the language model after the prefill. `accepted` says how many guessed
    tokens of each row the prefill confirmed; empty of runtimes that do not guess.
    """

    ids: Tensor
    timings: dict[str, float] = field(default_factory=dict)
    passes: int = 0
    accepted: tuple[int, ...] = ()


class Runtime(Protocol):
    """Greedy decoding of `count` tokens for every row."""

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        pixels_BCHW: Tensor,
        count: int = 7,
        guesses: Sequence[Sequence[int] | None] | None = None,
    ) -> Generated:
        """Token ids that follow each prompt, seen each with its image.

        `guesses` are the tokens each row may answer with (None: no idea). They change how fast `draft` is,
        and never what any runtime answers.
        """
        ...


def check_request(model: OpenVLA, prompts: Sequence[Sequence[int]], pixels_BCHW: Tensor, count: int) -> None:
    """Raise ValueError unless the rows belong together and fit the model's positions."""
    if not len(prompts) or len(prompts) != len(pixels_BCHW) or not all(map(len, prompts)):
        raise ValueError(f"{len(prompts)} prompts (none may be empty) for {len(pixels_BCHW)} images")
    if count < 1:
        raise ValueError(f"count: expected at least 1 token, got {count}")
    longest = max(map(len, prompts)) + model.config.patches
    limit = model.config.text.max_position_embeddings
    if longest + count > limit:
        raise ValueError(f"the prompt needs {longest + count} of the model's {limit} positions; shorten it")


_CANDIDATES = 64  # rows compared anew in float32; more tokens than ever share the largest 16-bit logit


class Stopwatch:
    """Seconds between marks. On a GPU by events of its stream, so that measuring never makes the CPU wait."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._marks: list[tuple[str, float | torch.cuda.Event]] = []
        self.mark("")

    def mark(self, stage: str) -> None:
        """`stage` ends here."""
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
        for (_, before), (stage, after) in zip(self._marks, self._marks[1:], strict=False):
            seconds = before.elapsed_time(after) / 1e3 if self._cuda else after - before  # type: ignore
            spent[stage] = spent.get(stage, 0.0) + seconds
        return spent


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

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., rows looked at), in float32."""
        if self.eos is None:
            # In float32 throughout, see `choose`. 256 rows cost nothing.
            return linear(hidden.float(), self.linear.weight[self.first : self.stop].float())
        return self.linear(hidden).float()

    def choose(self, hidden: Tensor) -> Tensor:
        """(..., D) -> token ids (...).

        Always by logits in float32: neighbouring bins differ by less than bf16 tells apart, and the first of equals
        would win, whichever way the products were rounded.
        """
        logits = self.logits(hidden)
        if self.eos is not None:
            logits[..., self.eos] = -torch.inf
            if hidden.dtype != torch.float32:
                return self._choose_in_float32(hidden, logits, self.eos)
        if self.rank == 1:
            return logits.argmax(-1) + self.first
        return logits.topk(self.rank, dim=-1).indices[..., -1] + self.first

    def _choose_in_float32(self, hidden: Tensor, logits: Tensor, never: int) -> Tensor:
        """Among the best rows by 16-bit logits. All of them in float32 would be twice the bytes of a decoding step."""
        count = min(max(_CANDIDATES, 2 * self.rank), logits.shape[-1])
        ids = logits.topk(count, dim=-1).indices
        weight = self.linear.weight[ids].float()
        exact = (weight @ hidden.float()[..., None])[..., 0].masked_fill_(ids == never, -torch.inf)
        return ids.gather(-1, exact.topk(self.rank, dim=-1).indices[..., -1:])[..., 0]
