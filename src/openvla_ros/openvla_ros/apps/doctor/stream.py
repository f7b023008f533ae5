"""Statistics of the messages that were received on one topic."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from itertools import pairwise

FEW = 3  # with fewer messages there is no rate


@dataclass(frozen=True)
class Stream:
    """Messages of one topic, over a period of listening. Times in seconds."""

    topic: str
    publishers: int = 0
    reliable: bool = False
    listened: float = 0.0
    size: int = 0  # bytes of the newest message's data
    arrivals: tuple[float, ...] = ()  # this machine's monotonic clock
    stamps: tuple[float, ...] = ()
    ages: tuple[float, ...] = ()  # this node's clock at arrival minus the stamp

    def rate(self, *, by_stamps: bool = False) -> float:
        """Messages per second; 0 with fewer than two. `by_stamps` measures on the stamps' clock (simulated time)."""
        times = sorted(self.stamps if by_stamps else self.arrivals)
        return (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 and times[-1] > times[0] else 0.0

    def silence(self) -> float:
        """The longest time without a message, by arrival [s]."""
        times = self.arrivals
        if not times:
            return self.listened
        return max([b - a for a, b in pairwise(times)] + [self.listened - (times[-1] - times[0])])

    def lost(self) -> float:
        """Share of messages lost, by the gaps between stamps [0 to 1]."""
        stamps = sorted(set(self.stamps))
        steps = [b - a for a, b in pairwise(stamps)]
        if len(steps) < FEW:
            return 0.0
        usual = statistics.median(steps)
        missing = sum(max(0, round(step / usual) - 1) for step in steps)
        return missing / (missing + len(stamps))
