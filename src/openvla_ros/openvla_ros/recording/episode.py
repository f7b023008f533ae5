"""Life cycle of a recorded episode, without topics and files: idle -> recording -> idle, counted and labelled."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import Enum
from typing import Any

FORMAT = 1


class Outcome(Enum):
    """How an episode ended, with the numbers of StopEpisode.srv."""

    SUCCESS = 0
    FAILURE = 1
    DISCARD = 2

    @property
    def label(self) -> str:
        """The outcome as written in the bag."""
        return self.name.lower()


# Label of an episode that no operator ended: the disk ran full, or the recorder was shut down.
UNFINISHED = "unfinished"


class EpisodeError(Exception):
    """A start or stop that is not possible now; the message says why and what to do."""


@dataclass(frozen=True)
class Episode:
    """What is known when an episode starts.

    Attributes:
        episode_id: Unique identifier, in the order of time.
        instruction: The task in words.
        operator_note: Free text.
        started: Time of the start (UTC).
        details: Host, versions, git revision and so on.
    """

    episode_id: str
    instruction: str
    operator_note: str
    started: datetime
    details: Mapping[str, Any]


@dataclass(frozen=True)
class Counters:
    """Episodes of this session by outcome."""

    success: int = 0
    failure: int = 0
    discard: int = 0
    unfinished: int = 0

    def add(self, label: str) -> Counters:
        """The counters with one more episode of that label."""
        return replace(self, **{label: getattr(self, label) + 1})


class EpisodeMachine:
    """Decides what may happen next; the caller does it. It has no clock: calls pass the time.

    Attributes:
        details: Metadata of every episode.
        current: The episode being recorded; None without one.
        last: The episode that ended last; None before the first.
        counters: Episodes of this session by outcome.
    """

    def __init__(self, details: Mapping[str, Any] | None = None) -> None:
        """Start idle, with no episodes counted; `details` are metadata of every episode."""
        self.details = dict(details or {})
        self.current: Episode | None = None
        self.last: Episode | None = None
        self.counters = Counters()
        self._last_id = ""

    @property
    def recording(self) -> bool:
        """Whether an episode is being recorded."""
        return self.current is not None

    def start(self, instruction: str, operator_note: str, now: datetime, fallback_instruction: str = "") -> Episode:
        """Begin an episode.

        Args:
            instruction: The task in words; '' for the fallback.
            operator_note: Free text.
            now: Time of the start.
            fallback_instruction: The newest instruction on the topic.

        Returns:
            The episode.

        Raises:
            EpisodeError: An episode is being recorded already, or there is no instruction.
        """
        if self.current is not None:
            raise EpisodeError(f"episode {self.current.episode_id} is being recorded; stop it first")
        text = instruction.strip() or fallback_instruction.strip()
        if not text:
            raise EpisodeError("no instruction: give one with the start, or publish it on the instruction topic before")
        now = now.astimezone(UTC)
        # The time in microseconds orders the bags; the increment keeps ids distinct under a coarse clock.
        episode_id = now.strftime("%Y%m%dT%H%M%S_%f")
        if episode_id <= self._last_id:
            head, tail = self._last_id.split("_")
            episode_id = f"{head}_{int(tail) + 1:06d}"
        self._last_id = episode_id
        self.current = Episode(episode_id, text, operator_note.strip(), now, dict(self.details))
        return self.current

    def check_stop(self, outcome: int, score: float) -> Outcome:
        """Check how a caller wants to end the episode, before anything is closed.

        Args:
            outcome: Number of the outcome.
            score: How much of the task was done, 0 … 1.

        Returns:
            The outcome.

        Raises:
            EpisodeError: No episode is being recorded, or outcome or score is invalid.
        """
        if self.current is None:
            raise EpisodeError("no episode is being recorded; start one first")
        try:
            checked = Outcome(outcome)
        except ValueError:
            choices = ", ".join(f"{choice.value} ({choice.label})" for choice in Outcome)
            raise EpisodeError(f"outcome {outcome} is unknown; choose one of {choices}") from None
        if not (math.isfinite(score) and 0.0 <= score <= 1.0):
            raise EpisodeError(f"score is {score}; give a number from 0 (nothing done) to 1 (all of it)")
        return checked

    def stopped(self, label: str) -> Episode:
        """Count the episode as ended.

        Args:
            label: Label of an outcome, or `UNFINISHED`.

        Returns:
            The episode.

        Raises:
            EpisodeError: No episode is being recorded.
        """
        if self.current is None:
            raise EpisodeError("no episode is being recorded; start one first")
        episode, self.current = self.current, None
        self.last = episode
        self.counters = self.counters.add(label)
        return episode


def start_event(episode: Episode) -> str:
    """JSON for the episode topic at the start: sufficient to convert the bag even if the recorder is killed."""
    event: dict[str, Any] = {
        "event": "start",
        "format": FORMAT,
        "episode_id": episode.episode_id,
        "instruction": episode.instruction,
        "operator_note": episode.operator_note,
        "started": episode.started.isoformat(),
        "details": dict(episode.details),
    }
    return json.dumps(event)


def stop_event(
    episode: Episode,
    label: str,
    score: float,
    note: str,
    dropped: Mapping[str, int],
    statistics: Mapping[str, str],
    gaps: Mapping[str, int] | None = None,
    silent: Sequence[str] = (),
) -> str:
    """JSON for the episode topic at the end.

    Args:
        episode: The episode.
        label: Label of its outcome.
        score: How much of the task was done, 0 … 1.
        note: Free text.
        dropped: Messages lost, by topic.
        statistics: Name, hash and source of the policy's statistics.
        gaps: Messages missing by the stamps, by topic.
        silent: Nodes whose parameters are not known.

    Returns:
        The JSON.
    """
    event: dict[str, Any] = {
        "event": "stop",
        "format": FORMAT,
        "episode_id": episode.episode_id,
        "outcome": label,
        "score": score,
        "note": note,
        "dropped": {topic: number for topic, number in dropped.items() if number},
        "gaps": {topic: number for topic, number in (gaps or {}).items() if number},
        "statistics": dict(statistics),
        "parameters_unknown": list(silent),
    }
    return json.dumps(event)
