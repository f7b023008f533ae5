"""The recorder's status as a message: rates over the last two seconds, losses, and how long the disk lasts."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from openvla_msgs.msg import RecorderStatus

from openvla_ros.nodes.common import conversions
from openvla_ros.nodes.recorder.topics import RecordedTopic
from openvla_ros.recording.episode import Counters, Episode

SPAN = 2.0  # [s] over which rates are measured
GIB = 2**30


@dataclass(frozen=True)
class RecorderSnapshot:
    """State of the recorder at one moment.

    Attributes:
        state: As RecorderStatus.state.
        reason: The newest event worth knowing, in one line.
        episode: The episode being recorded; None without one.
        messages: Messages in the bag.
        size: Bytes of the bag on the disk.
        backlog: Bytes that wait to be written.
        counters: Episodes of this session by outcome.
        target: Successes wanted; 0 for none.
        free: Space on the disk above the limit [GiB].
        missing: Required topics without a publisher.
    """

    state: str
    reason: str
    episode: Episode | None
    messages: int
    size: int
    backlog: int
    counters: Counters
    target: int
    free: float
    missing: Sequence[str]


class StatusReporter:
    """Makes status messages; keeps the counts of the last two seconds for the rates."""

    def __init__(self) -> None:
        self._counts: deque[tuple[float, dict[str, int], int]] = deque()
        self._started = 0.0

    def begin(self) -> None:
        """Start the clock of an episode."""
        self._started = time.monotonic()

    def message(self, snapshot: RecorderSnapshot, topics: Iterable[RecordedTopic], at_ns: int) -> RecorderStatus:
        """The status.

        Args:
            snapshot: State of the recorder now.
            topics: The topics being recorded.
            at_ns: Time on the node's clock [ns].

        Returns:
            The message.
        """
        now, topics = time.monotonic(), list(topics)
        counts = {topic.name: topic.loss.total for topic in topics}
        self._counts.append((now, counts, snapshot.size))
        while now - self._counts[0][0] > SPAN and len(self._counts) > 2:
            self._counts.popleft()
        then, before, size = self._counts[0]
        span = max(now - then, 1e-3)
        rates = [max(0, counts[t.name] - before.get(t.name, counts[t.name])) / span for t in topics]
        episode = snapshot.episode
        writing = episode is not None and snapshot.size > size
        rate = (snapshot.size - size) / span if writing else 0.0
        return RecorderStatus(
            header=conversions.header(at_ns),
            state=snapshot.state,
            reason=snapshot.reason,
            episode_id=episode.episode_id if episode else "",
            instruction=episode.instruction if episode else "",
            duration=now - self._started if episode else 0.0,
            messages=snapshot.messages,
            bytes=snapshot.size,
            write_rate=float(rate),
            backlog=snapshot.backlog,
            success=snapshot.counters.success,
            failure=snapshot.counters.failure,
            discard=snapshot.counters.discard,
            unfinished=snapshot.counters.unfinished,
            target=snapshot.target,
            free_gib=float(snapshot.free),
            time_left=float(max(0.0, snapshot.free) * GIB / rate) if rate else -1.0,
            topics=[t.name for t in topics],
            rates=[float(r) for r in rates],
            received=[t.loss.received for t in topics],
            dropped=[t.loss.dropped for t in topics],
            gaps=[t.loss.gaps for t in topics],
            missing=list(snapshot.missing),
        )


def summary(
    bag: str, counters: Counters, target: int, free_gib: float, dropped: Mapping[str, int], gaps: Mapping[str, int]
) -> str:
    """An episode that ended, in one line.

    Args:
        bag: The bag, or the episode where it was only marked.
        counters: Episodes of this session by outcome.
        target: Successes wanted; 0 for none.
        free_gib: Space on the disk [GiB].
        dropped: Messages lost, by topic.
        gaps: Messages missing by the stamps, by topic.

    Returns:
        The line.
    """
    wanted = f" of {target}" if target else ""
    parts = [bag, f"{counters.success}{wanted} successes, {counters.failure} failures", f"{free_gib:.0f} GiB free"]
    if dropped:
        parts.append("DROPPED " + ", ".join(f"{number} of {name}" for name, number in dropped.items()))
    if gaps:
        parts.append("gaps: " + ", ".join(f"{number} in {name}" for name, number in gaps.items()))
    return "; ".join(parts)
