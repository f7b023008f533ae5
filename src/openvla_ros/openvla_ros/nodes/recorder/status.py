"""The recorder's status as a message: rates over the last two seconds, what is lost, how long the disk lasts."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from openvla_msgs.msg import RecorderStatus

from openvla_ros.nodes.common import conversions
from openvla_ros.nodes.recorder.topics import Topic
from openvla_ros.recording.episode import Counters, Episode

SPAN = 2.0  # [s] that rates are taken over
GIB = 2**30


@dataclass(frozen=True)
class Look:
    """What the node knows at one moment."""

    state: str
    reason: str
    episode: Episode | None
    messages: int
    size: int  # [bytes] on the disk
    backlog: int
    counters: Counters
    target: int
    free: float  # [GiB] above the limit
    missing: Sequence[str]


class Gauge:
    """Remembers the counts of the last two seconds."""

    def __init__(self) -> None:
        self._counts: deque[tuple[float, dict[str, int], int]] = deque()
        self._started = 0.0

    def begin(self) -> None:
        """An episode starts."""
        self._started = time.monotonic()

    def message(self, look: Look, topics: Iterable[Topic], at_ns: int) -> RecorderStatus:
        """The status."""
        now, topics = time.monotonic(), list(topics)
        counts = {topic.name: topic.losses.total for topic in topics}
        self._counts.append((now, counts, look.size))
        while now - self._counts[0][0] > SPAN and len(self._counts) > 2:
            self._counts.popleft()
        then, before, size = self._counts[0]
        span = max(now - then, 1e-3)
        rates = [max(0, counts[t.name] - before.get(t.name, counts[t.name])) / span for t in topics]
        writing = look.episode is not None and look.size > size
        rate = (look.size - size) / span if writing else 0.0
        episode = look.episode
        return RecorderStatus(
            header=conversions.header(at_ns),
            state=look.state,
            reason=look.reason,
            episode_id=episode.episode_id if episode else "",
            instruction=episode.instruction if episode else "",
            duration=now - self._started if episode else 0.0,
            messages=look.messages,
            bytes=look.size,
            write_rate=float(rate),
            backlog=look.backlog,
            success=look.counters.success,
            failure=look.counters.failure,
            discard=look.counters.discard,
            unfinished=look.counters.unfinished,
            target=look.target,
            free_gib=float(look.free),
            time_left=float(max(0.0, look.free) * GIB / rate) if rate else -1.0,
            topics=[t.name for t in topics],
            rates=[float(r) for r in rates],
            received=[t.losses.received for t in topics],
            dropped=[t.losses.dropped for t in topics],
            gaps=[t.losses.gaps for t in topics],
            missing=list(look.missing),
        )
