"""Lossless self-speculation: the prefill also reads a guessed action, and only what it got wrong is decoded."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from functools import partial

import torch
from torch import Tensor

from openvla_policy.model.vla import OpenVLA
from openvla_policy.runtime.decoding import Generated, Guesses, Head, Prompts, Runtime, Stopwatch
from openvla_policy.runtime.graphs import Passes, Pool, Replay, ShapeCache

# Shapes: B rows, C tokens of an answer.


class DraftRuntime(Runtime):
    """Greedy decoding that guesses: each pass confirms as many tokens as the guess has right, and one more.

    The prefill reads all but the last guessed token after the prompt and chooses a token after each. Greedy decoding
    would choose the same as long as the tokens before were guessed right: up to the first that was not, which is
    corrected in the same pass. Everything after it is read again, with the model's own choices of the last pass
    as guesses: made from this image and a mostly right beginning, they are better than any made before
    (Jacobi decoding; Santilli et al., 2023).

    Rows may be confirmed to different lengths: a pass begins at the row that is furthest behind, and confirmed
    tokens of the others stay. A `rank` other than 1 works alike: chosen and guessed tokens are compared, whatever the
    rule of choosing.
    """

    def __init__(self, model: OpenVLA, head: Head) -> None:
        super().__init__(model, head)
        self.shapes = ShapeCache(self._make, model)

    def _make(self, rows: int, room: int, count: int, pool: Pool) -> _Shape:
        return _Shape(Passes(self.model, self.head, rows, room, count, drafted=count - 1), pool)

    def _generate(self, prompts: Prompts, pixels_BCHW: Tensor, count: int, guesses: Guesses) -> Generated:
        # `accepted` counts up to `count - 1`: the last guessed token is never read.
        shape = self.shapes.get(prompts, count)
        passes = shape.passes
        watch = Stopwatch(passes.device)
        passes.load(prompts, pixels_BCHW)
        guess_BC = self._guess(guesses, len(prompts), passes.rows, count)
        passes.ids_BC.copy_(guess_BC)
        shape.encode_image()
        watch.mark("vision")
        shape.prefill()
        ids_BC = passes.chosen_BC.to("cpu", copy=True)
        last_B = last_confirmed(torch.full((passes.rows,), -1), guess_BC, ids_BC)
        accepted = last_B.tolist()[: len(prompts)]
        watch.mark("prefill")
        extra_passes = 0
        while (first := int(last_B.min())) < count - 1:
            passes.ids_BC.copy_(ids_BC)
            shape.extend[first]()
            known_BC = torch.arange(count) <= last_B[:, None]
            chosen_BC = torch.where(known_BC, ids_BC, passes.chosen_BC.to("cpu", copy=True))
            last_B, ids_BC = last_confirmed(last_B, ids_BC, chosen_BC), chosen_BC
            extra_passes += 1
        watch.mark("decode")
        return Generated(ids_BC[: len(prompts)], watch.read(), passes=extra_passes, accepted=tuple(accepted))

    def _guess(self, guesses: Guesses, filled: int, rows: int, count: int) -> Tensor:
        """One guess (B, C) for each row of the buffers; rows beyond the request repeat its last."""
        guess_BC = torch.full((rows, count), self.head.first)
        for row, guess in enumerate(guesses or ()):
            if guess is not None:
                known = torch.as_tensor(guess)[:count]
                guess_BC[row, : len(known)] = known
        guess_BC[filled:] = guess_BC[filled - 1]
        # Chosen tokens are compared with those that were read, so that any number is a valid guess.
        return guess_BC.clamp_(0, self.model.config.text.vocab_size - 1)


def last_confirmed(last_B: Tensor, read_BC: Tensor, chosen_BC: Tensor) -> Tensor:
    """Find how far each row is certain after a pass.

    The token after the last certain one is certain now, and each further one as long as the one before it was chosen
    as it was read.

    Args:
        last_B: Index of the last certain token before the pass; -1 for none.
        read_BC: The tokens that the pass read.
        chosen_BC: The tokens that it chose.

    Returns:
        Index of the last certain token of each row (B,).
    """
    count = read_BC.shape[1]
    right_BC = (read_BC == chosen_BC) | (torch.arange(count) <= last_B[:, None])
    return right_BC.long().cumprod(1).sum(1).clamp(max=count - 1)


class _Shape:
    def __init__(self, passes: Passes, pool: Pool) -> None:
        self.passes = passes
        self.encode_image = Replay(passes.encode_image, passes.device, pool)
        self.prefill = Replay(passes.prefill, passes.device, pool)
        behind = passes.count - 1
        # All at once: the first request to need one must not wait for its capture.
        self.extend = [
            Replay(partial(passes.extend, first, behind - first), passes.device, pool) for first in range(behind)
        ]


class LastAnswers:
    """The last answer of each stream of observations, the best cheap guess for its next. Drops the oldest streams."""

    def __init__(self, limit: int = 256) -> None:
        self._limit = limit
        self._last: OrderedDict[Hashable, tuple[int, ...]] = OrderedDict()

    def get(self, stream: Hashable) -> tuple[int, ...] | None:
        """The last answer of `stream`, or None."""
        return self._last.get(stream)

    def store(self, stream: Hashable, ids: Sequence[int]) -> None:
        """Set the last answer of `stream`."""
        self._last[stream] = tuple(int(i) for i in ids)
        self._last.move_to_end(stream)
        while len(self._last) > self._limit:
            self._last.popitem(last=False)

    def clear(self) -> None:
        """Remove the answers of all streams."""
        self._last.clear()
