"""Greedy decoding over fixed shapes: one CUDA graph each for seeing, reading and all decoding steps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from openvla_policy.model.vla import OpenVLA
from openvla_policy.runtime.decoding import Generated, Head, Stopwatch, check_request
from openvla_policy.runtime.graphs import Passes, Pool, Replay, Shapes


class StaticRuntime:
    """As `eager`, with buffers and graphs kept for each (rows, prompt room, count). The CPU waits once, for the ids.

    Nothing is computed that nobody reads: not the last layer's queries and MLP where no token is chosen, nor
    logits outside of the vocabulary.
    """

    def __init__(self, model: OpenVLA, head: Head) -> None:
        self.model, self.head = model, head
        self._shapes = Shapes(self._make, model)

    def _make(self, rows: int, room: int, count: int, pool: Pool) -> _Shape:
        return _Shape(Passes(self.model, self.head, rows, room, count, riding=0), pool)

    @torch.inference_mode()
    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        pixels_BCHW: Tensor,
        count: int = 7,
        guesses: Sequence[Sequence[int] | None] | None = None,
    ) -> Generated:
        """See Runtime."""
        check_request(self.model, prompts, pixels_BCHW, count)
        shape = self._shapes.get(prompts, count)
        watch = Stopwatch(shape.passes.device)
        shape.passes.load(prompts, pixels_BCHW)
        shape.see()
        watch.mark("vision")
        shape.prefill()
        watch.mark("prefill")
        shape.decode()
        ids_BC = shape.passes.chosen_BC[: len(prompts)].to("cpu", copy=True)
        watch.mark("decode")
        return Generated(ids_BC, watch.read(), passes=count - 1)


class _Shape:
    def __init__(self, passes: Passes, pool: Pool) -> None:
        self.passes = passes
        # In this order: the warm-up of each needs what the one before it has written.
        self.see = Replay(passes.see, passes.device, pool)
        self.prefill = Replay(passes.prefill, passes.device, pool)
        self.decode = Replay(self._decode, passes.device, pool)

    def _decode(self) -> None:
        passes = self.passes
        for step in range(passes.count - 1):
            passes.ids_BC[:, step] = passes.chosen_BC[:, step]
            passes.extend(step, 1)
