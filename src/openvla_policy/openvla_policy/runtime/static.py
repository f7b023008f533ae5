"""Greedy decoding over fixed shapes: one CUDA graph each for vision, prefill and all decoding steps."""

from __future__ import annotations

from torch import Tensor

from openvla_policy.model.vla import OpenVLA
from openvla_policy.runtime.decoding import Generated, Guesses, Head, Prompts, Runtime, Stopwatch
from openvla_policy.runtime.graphs import Passes, Pool, Replay, ShapeCache


class StaticRuntime(Runtime):
    """As `eager`, with buffers and graphs kept for each shape of request. The CPU waits once, for the ids.

    Computes only what is read: neither the last layer's queries and MLP where no token is chosen, nor logits outside
    of the vocabulary.
    """

    def __init__(self, model: OpenVLA, head: Head) -> None:
        super().__init__(model, head)
        self.shapes = ShapeCache(self._make, model)

    def _make(self, rows: int, room: int, count: int, pool: Pool) -> _Shape:
        return _Shape(Passes(self.model, self.head, rows, room, count, drafted=0), pool)

    def _generate(self, prompts: Prompts, pixels_BCHW: Tensor, count: int, guesses: Guesses) -> Generated:
        shape = self.shapes.get(prompts, count)
        watch = Stopwatch(shape.passes.device)
        shape.passes.load(prompts, pixels_BCHW)
        shape.encode_image()
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
        # In this order: the warm-up of each reads what the one before it has written.
        self.encode_image = Replay(passes.encode_image, passes.device, pool)
        self.prefill = Replay(passes.prefill, passes.device, pool)
        self.decode = Replay(self._decode, passes.device, pool)

    @property
    def captured(self) -> bool:
        """Whether every pass is a CUDA graph."""
        return self.encode_image.captured and self.prefill.captured and self.decode.captured

    def _decode(self) -> None:
        passes = self.passes
        for step in range(passes.count - 1):
            passes.ids_BC[:, step] = passes.chosen_BC[:, step]
            passes.extend(step, 1)
