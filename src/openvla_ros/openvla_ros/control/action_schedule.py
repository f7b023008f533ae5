"""Which action comes next: all actions of a chunk, the first few of it, or a mean over several chunks."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import replace

from openvla_policy.contract.action import StampedChunk
from openvla_ros.safety.watchdogs import NS

Action = tuple[float, ...]


class Ensemble:
    """Temporal ensembling: the mean of what all recent chunks predicted for the same moment.

    The weights are exp(-decay · i), i = 0 for the oldest prediction (Zhao et al., "Learning fine-grained bimanual
    manipulation with low-cost hardware", RSS 2023, section IV-B). Action k of a chunk stands for the time from
    k to k + 1 periods after the chunk's observation. Deltas and openings are averaged value by value.
    """

    def __init__(self, decay: float, depth: int = 64) -> None:
        """Begin without predictions.

        Args:
            decay: 0: equal weights; positive: older predictions count more, negative: newer ones [1/chunk].
            depth: Number of chunks to keep.
        """
        self._decay = decay
        self._chunks: deque[StampedChunk] = deque(maxlen=depth)

    def add(self, chunk: StampedChunk) -> None:
        """Add the predictions of a chunk."""
        self._chunks.append(chunk)

    def clear(self) -> None:
        """Remove all predictions."""
        self._chunks.clear()

    def at(self, now_ns: int) -> Action | None:
        """The weighted mean of the predictions for `now_ns`; None if no chunk reaches that far."""
        found = []
        for chunk in self._chunks:
            index = (now_ns - chunk.observation_ns) // max(1, round(chunk.period * NS))
            if 0 <= index < len(chunk.actions):
                found.append(chunk.actions[index])
        if not found:
            return None
        weights = [math.exp(-self._decay * i) for i in range(len(found))]
        total = sum(weights)
        return tuple(sum(w * a[k] for w, a in zip(weights, found, strict=True)) / total for k in range(len(found[0])))


class Schedule:
    """The actions to come: those of the newest chunk, or the means of several."""

    def __init__(self, count: int, ensemble_decay: float | None, blocking: bool) -> None:
        """Begin empty.

        Args:
            count: Number of a chunk's actions to execute; 0: all.
            ensemble_decay: Decay of the ensemble's weights; None: no ensembling.
            blocking: Whether an action is executed to its end before the next begins.
        """
        self.ensemble = ensemble_decay is not None
        self.period = 0.2  # [s] of the newest chunk
        self._count, self._blocking = count, blocking
        self._queue: deque[Action] = deque()
        self._chunks = Ensemble(ensemble_decay or 0.0)
        self._slot = 0  # blocking: actions begun since the last stop

    @property
    def waiting(self) -> bool:
        """Whether actions of the newest chunk are queued."""
        return bool(self._queue)

    def add(self, chunk: StampedChunk) -> None:
        """Add a chunk. Its time begins with its observation; in blocking control with the next action."""
        self.period = chunk.period
        if not self.ensemble:
            self._queue = deque(chunk.actions[: self._count or None])
        elif self._blocking:
            self._chunks.add(replace(chunk, observation_ns=self._slot_ns()))
        else:
            self._chunks.add(chunk)

    def next(self, now_ns: int) -> Action | None:
        """Take the next action; None if there is none for the present."""
        if self._queue:
            return self._queue.popleft()
        return self._chunks.at(self._slot_ns() if self._blocking else now_ns) if self.ensemble else None

    def put_back(self, action: Action) -> None:
        """Make an action that was taken the next one again."""
        self._queue.appendleft(action)

    def begin(self) -> None:
        """Count an action that was taken as begun."""
        self._slot += 1

    def drop(self) -> None:
        """Remove the queued actions."""
        self._queue.clear()

    def clear(self) -> None:
        """Remove everything: the robot stops."""
        self._queue.clear()
        self._chunks.clear()
        self._slot = 0

    def _slot_ns(self) -> int:
        return self._slot * round(self.period * NS)
