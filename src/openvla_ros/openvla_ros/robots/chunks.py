"""Which action of which chunk comes next: all of one, the first few, or the agreement of several chunks in time."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

Action = tuple[float, ...]
NS = 1_000_000_000


class Ensemble:
    """Temporal ensembling: what all recent chunks predicted for the same moment, averaged.

    The weights are exp(-decay · i), i = 0 for the oldest prediction (Zhao et al., "Learning fine-grained bimanual
    manipulation with low-cost hardware", RSS 2023, section IV-B). Action k of a chunk stands for the time from
    k to k + 1 periods after the chunk's start. Deltas and openings are averaged value by value.
    """

    def __init__(self, decay: float, depth: int = 64) -> None:
        """`decay` [1/chunk]: 0 = equal weights; positive trusts older predictions, negative newer ones more."""
        self._decay = decay
        self._chunks: deque[tuple[int, int, tuple[Action, ...]]] = deque(maxlen=depth)

    def add(self, start_ns: int, period: float, actions: Sequence[Action]) -> None:
        """A chunk whose first action stands for the time from `start_ns` on."""
        self._chunks.append((start_ns, max(1, round(period * NS)), tuple(actions)))

    def clear(self) -> None:
        """Forget every prediction."""
        self._chunks.clear()

    def at(self, now_ns: int) -> Action | None:
        """The weighted mean of the predictions for `now_ns`; None when no chunk reaches there."""
        found = []
        for start_ns, period_ns, actions in self._chunks:
            index = (now_ns - start_ns) // period_ns
            if 0 <= index < len(actions):
                found.append(actions[index])
        if not found:
            return None
        weights = [math.exp(-self._decay * i) for i in range(len(found))]
        total = sum(weights)
        return tuple(sum(w * a[k] for w, a in zip(weights, found, strict=True)) / total for k in range(len(found[0])))
