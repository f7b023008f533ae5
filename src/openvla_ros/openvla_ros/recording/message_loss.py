"""Lost messages of a topic, by the publisher's sequence numbers and by the stamps of a regular stream."""

from __future__ import annotations

from collections import deque
from statistics import median

WINDOW = 31  # intervals whose median is the usual interval
LEAST = 8  # intervals that a stream needs to count as regular
SPREAD = 0.3  # of a regular stream: largest interquartile range of the intervals, relative to the usual one
LATE = 1.75  # an interval longer than this, relative to the usual one, contains a gap
EARLY = 0.6  # one shorter than this, soon after a gap, closes it: the source was late and has caught up
SOON = 5  # [messages] after a gap


class Gaps:
    """Messages missing from a regular stream, by its stamps; irregular streams (events, triggers) have none.

    Attributes:
        missing: Number of messages missing.
    """

    def __init__(self) -> None:
        self.missing = 0
        self._intervals: deque[int] = deque(maxlen=WINDOW)
        self._newest: int | None = None
        self._gap = self._since = 0  # the newest gap's size, and the messages since

    @property
    def period_ns(self) -> float:
        """The usual interval [ns]; 0 while the stream is not known to be regular."""
        if len(self._intervals) < LEAST:
            return 0.0
        ordered = sorted(self._intervals)
        usual, quarter = median(ordered), len(ordered) // 4
        return usual if ordered[-1 - quarter] - ordered[quarter] <= SPREAD * usual else 0.0

    def update(self, stamp_ns: int) -> None:
        """Count a message stamped at `stamp_ns` [ns]."""
        newest, self._newest = self._newest, stamp_ns
        if newest is None or stamp_ns <= newest:
            return
        interval, usual = stamp_ns - newest, self.period_ns
        if usual and interval > LATE * usual:
            self._gap, self._since = round(interval / usual) - 1, 0
            self.missing += self._gap
            return  # a gap says nothing about the usual interval
        self._since += 1
        if usual and interval < EARLY * usual and self._gap and self._since <= SOON:
            self._gap -= 1
            self.missing -= 1
            return
        self._intervals.append(interval)


class MessageLoss:
    """Counts of one topic in one episode.

    Attributes:
        total: Messages received since the subscription, for the rate.
        received: Messages received.
        dropped: Messages published but not recorded.
    """

    def __init__(self) -> None:
        self.total = 0
        self._gaps = Gaps()
        self._number: int | None = None
        self.begin()

    def begin(self) -> None:
        """Start to count for a new episode."""
        self.received = self.dropped = 0
        self._gaps.missing = 0

    @property
    def gaps(self) -> int:
        """Messages that were never published: missing by the stamps, without those dropped."""
        return max(0, self._gaps.missing - self.dropped)

    def arrived(self, number: int | None, stamp_ns: int | None) -> None:
        """Count a message.

        Args:
            number: The publisher's sequence number; None where the numbers of several publishers would mix.
            stamp_ns: Stamp of its header [ns]; None where it has none.
        """
        self.total += 1
        self.received += 1
        before, self._number = self._number, number
        if number is not None and before is not None and number > before + 1:
            self.dropped += number - before - 1
        if stamp_ns is not None:
            self._gaps.update(stamp_ns)
