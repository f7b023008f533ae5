"""Where the episodes of a bag begin and end: by the recorder's messages, by the instruction, or by a list of times."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from openvla_training.bags.episodes import BadBag

CutBy = Literal["auto", "episode", "instruction", "bag"]
COLUMNS = ("bag", "start", "end", "instruction", "outcome")
# Times in a list count from the bag's first message [s]; from here on, they count from 1970 [s].
FIRST_ABSOLUTE = 1e8

Texts = Sequence[tuple[int, str]]  # (log time [ns], text)


@dataclass(frozen=True)
class Segment:
    """One episode of a bag: first and last log time [ns], id, and its details (instruction, outcome, score, …)."""

    first: int
    last: int
    episode_id: str
    event: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TimesLine:
    """One line of a list of times; `start` and `end` [s] as written."""

    start: float
    end: float
    instruction: str
    outcome: str = "unknown"


def cut_bag(
    how: CutBy, stem: str, start: int, end: int, events: Texts, instructions: Texts, lines: Sequence[TimesLine] | None
) -> list[Segment]:
    """Find the episodes of a bag.

    Args:
        how: `auto` takes the recorder's messages where there are any; else an episode begins where the instruction
            changes and ends at an empty one. `instruction` begins one at every instruction, repeated ones included.
            `bag` takes the whole bag as one.
        stem: The bag's name, which begins the ids.
        start: The bag's first log time [ns].
        end: Its last log time [ns].
        events: Messages on the episode topic.
        instructions: Messages on the instruction topic.
        lines: The bag's lines of a list of times, which then alone decides; None where there is no list.

    Returns:
        The episodes in order of time.

    Raises:
        BadBag: Nothing says where an episode is.
    """
    if lines is not None:
        return _by_lines(lines, stem, start)
    if how == "episode" or (how == "auto" and events):
        segments = _by_events(events, end)
        if not segments:
            raise BadBag("no start of an episode on the episode topic; see --cut")
        return segments
    turns = _turns(instructions, every=how == "instruction")
    if how == "instruction" and not turns:
        raise BadBag("no instruction on the instruction topic; see --cut")
    if how == "instruction" or (how == "auto" and len(turns) > 1):
        ends = [first - 1 for first, _ in turns[1:]] + [end]
        return [
            Segment(first, last, f"{stem}-{first}", {"instruction": text})
            for (first, text), last in zip(turns, ends, strict=True)
            if text
        ]
    return [Segment(start, end, f"{stem}-{start}")]


def _by_events(events: Texts, end: int) -> list[Segment]:
    segments: list[Segment] = []
    for log_time, text in events:
        try:
            event = json.loads(text)
            kind, episode_id = event["event"], str(event["episode_id"])
        except (ValueError, KeyError, TypeError) as error:
            raise BadBag(f"message {text!r} on the episode topic is not an episode event") from error
        if kind == "start":
            segments.append(Segment(log_time, end, episode_id, event | {"outcome": "unfinished"}))
        elif kind == "stop" and segments and segments[-1].episode_id == episode_id:
            segments[-1] = Segment(segments[-1].first, log_time, episode_id, {**segments[-1].event, **event})
    return segments


def _turns(instructions: Texts, every: bool) -> list[tuple[int, str]]:
    """List when the instruction changes (with `every`: is published) [ns], and the instruction from then on."""
    turns: list[tuple[int, str]] = []
    for log_time, text in instructions:
        text = text.strip()
        if every or not turns or turns[-1][1] != text:
            turns.append((log_time, text))
    while turns and not turns[0][1]:
        turns.pop(0)  # no instruction before the first one
    return turns


def _by_lines(lines: Sequence[TimesLine], stem: str, start: int) -> list[Segment]:
    segments = []
    for line in lines:
        first, last = (
            round(time * 1e9) if time >= FIRST_ABSOLUTE else start + round(time * 1e9)
            for time in (line.start, line.end)
        )
        event = {"instruction": line.instruction, "outcome": line.outcome}
        segments.append(Segment(first, last, f"{stem}-{first}", event))
    return segments


def read_times(path: Path) -> dict[str, tuple[TimesLine, ...]]:
    """Read a list of times.

    Args:
        path: CSV with the columns bag, start [s], end [s], instruction and, optionally, outcome.

    Returns:
        The lines by bag as it is written there: a name, or a path relative to the file.

    Raises:
        ValueError: A column is missing, or a line is wrong.
    """
    found: dict[str, list[TimesLine]] = {}
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, skipinitialspace=True)
        missing = [name for name in COLUMNS[:4] if name not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(f"{path}: no column {', '.join(missing)}; the first line is: {','.join(COLUMNS)}")
        for row in reader:
            where = f"{path}: line {reader.line_num}"
            try:
                start, end = float(row["start"]), float(row["end"])
            except (TypeError, ValueError) as error:
                raise ValueError(
                    f"{where}: start {row['start']!r} or end {row['end']!r} is not a number [s]"
                ) from error
            if not 0 <= start < end:
                raise ValueError(f"{where}: start {start} and end {end}; an episode ends after it starts")
            text = (row["instruction"] or "").strip()
            if not text or not row["bag"]:
                raise ValueError(f"{where}: bag or instruction is empty")
            outcome = (row.get("outcome") or "unknown").strip()
            found.setdefault(row["bag"].strip(), []).append(TimesLine(start, end, text, outcome))
    return {bag: tuple(lines) for bag, lines in found.items()}


def lines_of(bag: Path, times: Mapping[str, tuple[TimesLine, ...]], folder: Path) -> tuple[TimesLine, ...]:
    """Return the lines of one bag, which is listed by its path relative to `folder` or by its name."""
    for name, lines in times.items():
        if (folder / name).resolve() == bag or name in (bag.name, bag.stem):
            return lines
    return ()


def digest(lines: Sequence[TimesLine]) -> str:
    """Hash lines of a list of times to 16 hex digits."""
    text = repr(list(lines)).replace("TimesLine(", "Line(")  # as manifests have it since their first version
    return hashlib.sha256(text.encode()).hexdigest()[:16]
