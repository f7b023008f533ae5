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
# Times in a list are seconds since the bag's first message; larger ones are seconds since 1970.
FIRST_ABSOLUTE = 1e8

Said = Sequence[tuple[int, str]]  # (log time [ns], text)


@dataclass(frozen=True)
class Cut:
    """One episode: first and last log time [ns], id, and what is known (instruction, outcome, score, dropped, …)."""

    first: int
    last: int
    episode_id: str
    event: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Line:
    """One line of a list of times; ``start`` and ``end`` as written [s]."""

    start: float
    end: float
    instruction: str
    outcome: str = "unknown"


def cut_bag(
    how: str, stem: str, start: int, end: int, events: Said, said: Said, lines: Sequence[Line] | None
) -> list[Cut]:
    """Cut a bag.

    Args:
        how: one of ``CUTS``. auto takes the recorder's messages where there are any; else it begins an episode
            wherever the sentence changes and ends it at an empty one. instruction begins one at every sentence,
            the same again included. bag takes all of it as one.
        stem: the bag's name, which begins the ids.
        start: the bag's first log time [ns].
        end: its last one [ns].
        events: messages on the episode topic.
        said: messages on the instruction topic.
        lines: the bag's lines of a list of times, which then decides alone.

    Raises:
        BadBag: nothing says where an episode is.
    """
    if lines is not None:
        return _by_lines(lines, stem, start)
    if how == "episode" or how == "auto" and events:
        cuts = _by_events(events, end)
        if not cuts:
            raise BadBag("no start of an episode on the episode topic; see --cut")
        return cuts
    turns = _turns(said, every=how == "instruction")
    if how == "instruction" and not turns:
        raise BadBag("no instruction on the instruction topic; see --cut")
    if how == "instruction" or how == "auto" and len(turns) > 1:
        ends = [first - 1 for first, _ in turns[1:]] + [end]
        return [
            Cut(first, last, f"{stem}-{first}", {"instruction": text})
            for (first, text), last in zip(turns, ends, strict=True)
            if text
        ]
    return [Cut(start, end, f"{stem}-{start}")]


def _by_events(events: Said, end: int) -> list[Cut]:
    cuts: list[Cut] = []
    for log_time, text in events:
        try:
            event = json.loads(text)
            kind, episode_id = event["event"], str(event["episode_id"])
        except (ValueError, KeyError, TypeError) as error:
            raise BadBag(f"message {text!r} on the episode topic is no episode event") from error
        if kind == "start":
            cuts.append(Cut(log_time, end, episode_id, event | {"outcome": "unfinished"}))
        elif kind == "stop" and cuts and cuts[-1].episode_id == episode_id:
            cuts[-1] = Cut(cuts[-1].first, log_time, episode_id, {**cuts[-1].event, **event})
    return cuts


def _turns(said: Said, every: bool) -> list[tuple[int, str]]:
    """The times at which the sentence changes (or, for ``every``, is said), and what it is from then on."""
    turns: list[tuple[int, str]] = []
    for log_time, text in said:
        text = text.strip()
        if every or not turns or turns[-1][1] != text:
            turns.append((log_time, text))
    while turns and not turns[0][1]:
        turns.pop(0)  # silence before the first sentence
    return turns


def _by_lines(lines: Sequence[Line], stem: str, start: int) -> list[Cut]:
    cuts = []
    for line in lines:
        first, last = (
            round(time * 1e9) if time >= FIRST_ABSOLUTE else start + round(time * 1e9)
            for time in (line.start, line.end)
        )
        event = {"instruction": line.instruction, "outcome": line.outcome}
        cuts.append(Cut(first, last, f"{stem}-{first}", event))
    return cuts


def read_times(path: Path) -> dict[str, tuple[Line, ...]]:
    """Read a list of times: CSV with the columns bag, start, end, instruction and, if wanted, outcome.

    Returns the lines by bag, as it is written there: a name, or a path relative to the file.

    Raises:
        ValueError: a column is missing or a line is wrong, with its number.
    """
    found: dict[str, list[Line]] = {}
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
                raise ValueError(f"{where}: start {row['start']!r} or end {row['end']!r} is no number [s]") from error
            if not 0 <= start < end:
                raise ValueError(f"{where}: start {start} and end {end}; an episode ends after it starts")
            text = (row["instruction"] or "").strip()
            if not text or not row["bag"]:
                raise ValueError(f"{where}: bag or instruction is empty")
            outcome = (row.get("outcome") or "unknown").strip()
            found.setdefault(row["bag"].strip(), []).append(Line(start, end, text, outcome))
    return {bag: tuple(lines) for bag, lines in found.items()}


def lines_of(bag: Path, times: Mapping[str, tuple[Line, ...]], folder: Path) -> tuple[Line, ...]:
    """The lines of one bag: listed by its path, relative to ``folder``, or by its name."""
    for name, lines in times.items():
        if (folder / name).resolve() == bag or name in (bag.name, bag.stem):
            return lines
    return ()


def digest(lines: Sequence[Line]) -> str:
    """16 hex digits that change with the lines."""
    return hashlib.sha256(repr(list(lines)).encode()).hexdigest()[:16]
