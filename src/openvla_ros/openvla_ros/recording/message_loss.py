"""How much of a topic did not arrive: counted by the publisher's numbers, and by the stamps of a regular stream."""

from __future__ import annotations

from collections import deque
from statistics import median

WINDOW = 31  # intervals that the usual one is taken from
LEAST = 8  # fewer do not make a stream regular
SPREAD = 0.3  # a regular stream's middle half of intervals spreads less, relative to the usual one
LATE = 1.75  # an interval so many times as long as the usual one has a hole
EARLY = 0.6  # one so short, soon after a hole, fills it: the source was late and has caught up
SOON = 5  # messages


class Gaps:
    """Messages that a regular stream is short of, by its stamps; irregular ones (events, triggers) have none."""

    def __init__(self) -> None:
        self.missing = 0
        self._intervals: deque[int] = deque(maxlen=WINDOW)
        self._newest: int | None = None
        self._hole = self._since = 0  # the newest hole's size, and the messages since

    @property
    def period_ns(self) -> float:
        """The usual interval [ns]; 0 while the stream is not known to be regular."""
        if len(self._intervals) < LEAST:
            return 0.0
        ordered = sorted(self._intervals)
        usual, quarter = median(ordered), len(ordered) // 4
        return usual if ordered[-1 - quarter] - ordered[quarter] <= SPREAD * usual else 0.0

    def seen(self, stamp_ns: int) -> None:
        """Take a message's stamp."""
        newest, self._newest = self._newest, stamp_ns
        if newest is None or stamp_ns <= newest:
            return
        interval, usual = stamp_ns - newest, self.period_ns
        if usual and interval > LATE * usual:
            self._hole, self._since = round(interval / usual) - 1, 0
            self.missing += self._hole
            return  # a hole says nothing about the rhythm
        self._since += 1
        if usual and interval < EARLY * usual and self._hole and self._since <= SOON:
            self._hole -= 1
            self.missing -= 1
            return
        self._intervals.append(interval)


class Losses:
    """One topic's counts in one episode. `dropped`: published but not recorded; `gaps`: never published."""

    def __init__(self) -> None:
        self.total = 0  # since the subscription, for the rate
        self._gaps = Gaps()
        self._number: int | None = None
        self.begin()

    def begin(self) -> None:
        """A new episode: count from here on."""
        self.received = self.dropped = 0
        self._gaps.missing = 0

    @property
    def gaps(self) -> int:
        """Messages missing by the stamps, those excepted that are known to be lost on the way."""
        return max(0, self._gaps.missing - self.dropped)

    def arrived(self, number: int | None, stamp_ns: int | None) -> None:
        """A message came.

        ``number``: its publisher's count, None where several publishers' counts would mix. ``stamp_ns``: its
        header's, None where it has none.
        """
        self.total += 1
        self.received += 1
        before, self._number = self._number, number
        if number is not None and before is not None and number > before + 1:
            self.dropped += number - before - 1
        if stamp_ns is not None:
            self._gaps.seen(stamp_ns)
