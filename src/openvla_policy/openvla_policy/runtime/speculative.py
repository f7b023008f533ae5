"""Lossless self-speculation: a guessed action rides along in the prefill, and only what it got wrong is decoded."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from functools import partial

import torch
from torch import Tensor

from openvla_policy.model.vla import OpenVLA
from openvla_policy.runtime.decoding import Generated, Head, Stopwatch, check_request
from openvla_policy.runtime.graphs import Passes, Pool, Replay, Shapes

# Shapes: B rows, C tokens of an answer.


class DraftRuntime:
    """Greedy decoding that guesses: as many tokens a pass as the guess has right, and one more.

    The prefill reads all but the last guessed token behind the prompt and chooses after each. Greedy decoding
    would choose the same as long as the tokens before were guessed right: up to the first that was not, which is
    corrected in the same pass. Everything after it is read again, with the model's own choices of the last pass
    for guesses: made from this image and a mostly right beginning, they are better than any made before
    (Jacobi decoding; Santilli et al., 2023).

    Rows may agree to different lengths: a pass begins where the row that is furthest behind stands, and
    what the others already knew stays. A `rank` other than 1 works alike: chosen and guessed are compared,
    whatever the rule of choosing.
    """

    def __init__(self, model: OpenVLA, head: Head) -> None:
        self.model, self.head = model, head
        self._shapes = Shapes(self._make, model)

    def _make(self, rows: int, room: int, count: int, pool: Pool) -> _Shape:
        return _Shape(Passes(self.model, self.head, rows, room, count, riding=count - 1), pool)

    @torch.inference_mode()
    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        pixels_BCHW: Tensor,
        count: int = 7,
        guesses: Sequence[Sequence[int] | None] | None = None,
    ) -> Generated:
        """See Runtime. `accepted` counts up to `count - 1`: the last token follows the last that is read."""
        check_request(self.model, prompts, pixels_BCHW, count)
        shape = self._shapes.get(prompts, count)
        passes = shape.passes
        watch = Stopwatch(passes.device)
        passes.load(prompts, pixels_BCHW)
        guess_BC = self._guesses(guesses, len(prompts), passes.rows, count)
        passes.ids_BC.copy_(guess_BC)
        shape.see()
        watch.mark("vision")
        shape.prefill()
        ids_BC = passes.chosen_BC.to("cpu", copy=True)
        last_B = agreed(torch.full((passes.rows,), -1), guess_BC, ids_BC)
        accepted = last_B.tolist()[: len(prompts)]
        watch.mark("prefill")
        taken = 0
        while (first := int(last_B.min())) < count - 1:
            passes.ids_BC.copy_(ids_BC)
            shape.extend[first]()
            known_BC = torch.arange(count) <= last_B[:, None]
            fresh_BC = torch.where(known_BC, ids_BC, passes.chosen_BC.to("cpu", copy=True))
            last_B, ids_BC = agreed(last_B, ids_BC, fresh_BC), fresh_BC
            taken += 1
        watch.mark("decode")
        return Generated(ids_BC[: len(prompts)], watch.read(), passes=taken, accepted=tuple(accepted))

    def _guesses(self, guesses: Sequence[Sequence[int] | None] | None, filled: int, rows: int, count: int) -> Tensor:
        if guesses is not None and len(guesses) != filled:
            raise ValueError(f"{len(guesses)} guesses for {filled} prompts")
        guess_BC = torch.full((rows, count), self.head.first)
        for row, guess in enumerate(guesses or ()):
            if guess is not None:
                known = torch.as_tensor(guess)[:count]
                guess_BC[row, : len(known)] = known
        guess_BC[filled:] = guess_BC[filled - 1]
        # What is compared is what was read, so that any number may come in.
        return guess_BC.clamp_(0, self.model.config.text.vocab_size - 1)


def agreed(last_B: Tensor, read_BC: Tensor, chosen_BC: Tensor) -> Tensor:
    """Index of the last token that is certain in each row, after a pass that read and chose these.

    `last_B` is what it was before (-1: none). The token behind is certain now, and each further one as long as
    the one before it was read as it was chosen.
    """
    count = read_BC.shape[1]
    right_BC = (read_BC == chosen_BC) | (torch.arange(count) <= last_B[:, None])
    return right_BC.long().cumprod(1).sum(1).clamp(max=count - 1)


class _Shape:
    def __init__(self, passes: Passes, pool: Pool) -> None:
        self.passes = passes
        self.see = Replay(passes.see, passes.device, pool)
        self.prefill = Replay(passes.prefill, passes.device, pool)
        behind = passes.count - 1
        # All at once: the first robot to need one must not wait for its capture.
        self.extend = [
            Replay(partial(passes.extend, first, behind - first), passes.device, pool) for first in range(behind)
        ]


class Memory:
    """The last answer of each stream of observations, the best cheap guess for its next. Oldest streams go first."""

    def __init__(self, limit: int = 256) -> None:
        self._limit = limit
        self._last: OrderedDict[Hashable, tuple[int, ...]] = OrderedDict()

    def recall(self, stream: Hashable) -> tuple[int, ...] | None:
        """What `stream` answered last, or None."""
        return self._last.get(stream)

    def store(self, stream: Hashable, ids: Sequence[int]) -> None:
        """Remember an answer."""
        self._last[stream] = tuple(int(i) for i in ids)
        self._last.move_to_end(stream)
        while len(self._last) > self._limit:
            self._last.popitem(last=False)

    def forget(self) -> None:
        """Forget all streams."""
        self._last.clear()
