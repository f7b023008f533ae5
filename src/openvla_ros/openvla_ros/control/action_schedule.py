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


class Schedule:
    """The actions that are still to come: those of the newest chunk, or what several chunks agree on."""

    def __init__(self, count: int, ensemble_decay: float | None, blocking: bool) -> None:
        """`count`: actions of a chunk to execute, 0 = all; `ensemble_decay`: None = no ensembling."""
        self.ensemble = ensemble_decay is not None
        self.period = 0.2  # [s] of the newest chunk
        self._count, self._blocking = count, blocking
        self._queue: deque[Action] = deque()
        self._chunks = Ensemble(ensemble_decay or 0.0)
        self._slot = 0  # blocking: actions begun since the last stop

    @property
    def waiting(self) -> bool:
        """Whether actions of the newest chunk are waiting for their turn."""
        return bool(self._queue)

    def take(self, actions: Sequence[Action], period: float, observation_ns: int) -> None:
        """A new chunk: in streaming control its time begins with its observation, in blocking with the next action."""
        self.period = period
        if self.ensemble:
            self._chunks.add(self._slot_ns() if self._blocking else observation_ns, period, actions)
        else:
            self._queue = deque(actions[: self._count or None])

    def next(self, now_ns: int) -> Action | None:
        """Take the next action; None when there is none for the present."""
        if self._queue:
            return self._queue.popleft()
        return self._chunks.at(self._slot_ns() if self._blocking else now_ns) if self.ensemble else None

    def put_back(self, action: Action) -> None:
        """An action that was taken is the next one again."""
        self._queue.appendleft(action)

    def begun(self) -> None:
        """An action that was taken is on its way."""
        self._slot += 1

    def drop(self) -> None:
        """Forget the actions that wait for their turn."""
        self._queue.clear()

    def clear(self) -> None:
        """Forget everything: the robot stops."""
        self._queue.clear()
        self._chunks.clear()
        self._slot = 0

    def _slot_ns(self) -> int:
        return self._slot * round(self.period * NS)
