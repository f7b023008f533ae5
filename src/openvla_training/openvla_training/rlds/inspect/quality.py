"""What to know of a dataset before training on it: figures, and warnings in words."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openvla_policy.contract.statistics import Statistics, compute
from openvla_training.rlds.images import Image
from openvla_training.rlds.reader import count_episodes, find_dataset, read_episodes
from openvla_training.rlds.writer import MANIFEST

ACTION_NAMES = ("dx [m]", "dy [m]", "dz [m]", "droll [rad]", "dpitch [rad]", "dyaw [rad]", "gripper [0..1]")
STILL = 1e-4  # norm of the first six numbers below which a step is idle, as in the reference's no-op filter
PICTURES = 6  # episodes on a contact sheet
MOSTLY_IDLE, SATURATED, SHORT = 0.5, 0.05, 5
LARGE_STEP = (0.15, 0.6)  # [m], [rad]: more than this in one step is rarely intended
DARK = 2.0  # standard deviation of the pixels below which a picture shows nothing


@dataclass(frozen=True)
class EpisodeFigures:
    """One episode; `idle` is the share of steps without motion, counting those that the conversion left out."""

    episode_id: str
    split: str
    instruction: str
    outcome: str
    steps: int
    idle: float
    closes: bool
    positions: NDArray[np.float32] = field(repr=False)


@dataclass(frozen=True)
class Inspection:
    """All figures of a dataset; `first_last` has up to `PICTURES` pairs of frames (first, last) an instruction."""

    name: str
    folder: Path
    splits: dict[str, int]
    statistics: Statistics
    actions: NDArray[np.float32]
    saturated: NDArray[np.float64]
    episodes: list[EpisodeFigures]
    first_last: dict[str, list[tuple[Image, Image]]]
    skew: dict[str, dict[str, float]]
    lost: dict[str, int]
    gaps: int
    left_out: dict[str, int]
    dropped: dict[str, str]
    bad: dict[str, str]
    settings: Mapping[str, Any]
    warnings: list[str]

    def to_json(self) -> dict[str, Any]:
        """The figures as JSON, without pictures and trajectories."""
        lengths = [episode.steps for episode in self.episodes]
        return {
            "dataset": self.name,
            "folder": str(self.folder),
            "warnings": self.warnings,
            "splits": self.splits,
            "steps": int(sum(lengths)),
            "episode_steps": {
                "min": min(lengths), "median": float(np.median(lengths)), "max": max(lengths)
            },
            "instructions": dict(Counter(episode.instruction for episode in self.episodes).most_common()),
            "outcomes": dict(Counter(episode.outcome for episode in self.episodes)),
            "idle_fraction": float(np.mean([episode.idle for episode in self.episodes])),
            "saturated_fraction": self.saturated.tolist(),
            "action_names": list(ACTION_NAMES),
            "statistics": self.statistics.to_json(),
            "skew_s": self.skew,
            "messages_lost": self.lost,
            "image_gaps": self.gaps,
            "steps_left_out": self.left_out,
            "episodes_dropped": self.dropped,
            "bad": self.bad,
            "settings": dict(self.settings),
            "episodes": [
                {
                    "id": one.episode_id, "split": one.split, "instruction": one.instruction, "outcome": one.outcome,
                    "steps": one.steps, "idle_fraction": round(one.idle, 4), "gripper_closes": one.closes,
                }
                for one in self.episodes
            ],
        }  # fmt: skip


def counted(number: int, singular: str, plural: str = "") -> str:
    """Write a number of things with its noun: 1 episode, 2 episodes."""
    return f"{number} {singular if number == 1 else plural or singular + 's'}"


def inspect(folder: Path | str) -> Inspection:
    """Read a dataset and compute its figures.

    Args:
        folder: The dataset. Figures that only the conversion knows come from its manifest, where there is one.

    Returns:
        Figures and warnings.

    Raises:
        FileNotFoundError: There is no dataset.
        ValueError: It has no episode.
    """
    folder = find_dataset(folder)
    path = folder / MANIFEST
    manifest = json.loads(path.read_text("utf-8")) if path.exists() else {}
    sources = manifest.get("sources", {}).values()
    quality = {key: figures for entry in sources for key, figures in entry.get("quality", {}).items()}
    splits = count_episodes(folder)
    episodes: list[EpisodeFigures] = []
    actions, states = [], []
    pairs: dict[str, list[tuple[Image, Image]]] = {}
    for split in splits:
        for one in read_episodes(folder, split=split):
            actions.append(one.actions)
            states.append(one.states)
            episodes.append(_figures(one, split, quality.get(one.episode_id, {})))
            sheet = pairs.setdefault(one.instruction, [])
            if len(sheet) < PICTURES:
                sheet.append((one.images[0], one.images[len(one.images) - 1]))
    if not episodes:
        raise ValueError(f"dataset {folder} has no episode")
    rows = np.concatenate(actions)
    left_out: Counter[str] = Counter()
    lost: Counter[str] = Counter()
    for figures in quality.values():
        left_out.update(figures["left_out"])
        lost.update(figures["messages_lost"])
    bad = dict(manifest.get("bad", {}))
    for entry in sources:
        bad |= entry.get("bad", {})
    inspection = Inspection(
        name=folder.parent.name,
        folder=folder,
        splits=splits,
        statistics=compute(actions, states),
        actions=rows,
        saturated=_saturated(rows),
        episodes=episodes,
        first_last=pairs,
        skew=_skew(list(quality.values())),
        lost=dict(lost),
        gaps=sum(figures["image_gaps"] for figures in quality.values()),
        left_out=dict(left_out),
        dropped={key: reason for entry in sources for key, reason in entry.get("dropped", {}).items()},
        bad=bad,
        settings=manifest.get("settings", {}),
        warnings=[],
    )
    inspection.warnings.extend(_warnings(inspection))
    return inspection


def _figures(one: Any, split: str, quality: Mapping[str, Any]) -> EpisodeFigures:
    still = int((np.linalg.norm(one.actions[:, :6], axis=1) < STILL).sum())
    filtered = sum(quality.get("left_out", {}).get(why, 0) for why in ("no motion", "all zero at the start"))
    return EpisodeFigures(
        episode_id=one.episode_id,
        split=split,
        instruction=one.instruction,
        outcome=one.outcome,
        steps=len(one.actions),
        idle=(still + filtered) / (len(one.actions) + filtered),
        closes=bool((one.actions[:, 6] < 0.5).any()),
        positions=one.states[:, :3],
    )


def _saturated(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    """Share of steps exactly at the lowest or highest value, for each of the six dimensions of motion, (6,)."""
    motion = rows[:, :6]
    low, high = motion.min(axis=0), motion.max(axis=0)
    # Zero is the lowest value of a dimension that only moves one way, but not a limit.
    at_limit = ((motion == low) | (motion == high)) & (motion != 0.0)
    # One step is always at each end.
    share = np.maximum(at_limit.sum(axis=0) - 2, 0) / len(motion)
    return np.where(low == high, 0.0, share)


def _skew(quality: list[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Mean and largest distance in time from the frames over all episodes [s], by stream."""
    streams = dict.fromkeys(name for figures in quality for name in figures["skew_s"])
    return {
        name: {
            "mean": float(np.mean([figures["skew_s"][name]["mean"] for figures in quality])),
            "max": float(np.max([figures["skew_s"][name]["max"] for figures in quality])),
        }
        for name in streams
    }


def _warnings(found: Inspection) -> list[str]:
    """Sentences on what looks wrong, with the remedy."""
    warnings: list[str] = []
    episodes, count = found.episodes, len(found.episodes)
    idle = [one.episode_id for one in episodes if one.idle > MOSTLY_IDLE]
    if idle:
        warnings.append(
            f"{len(idle)} of {count} episodes are mostly idle (no motion in more than half of their steps): "
            f"{_some(idle)}. Look at them, and record those again in which the robot waits."
        )
    limited = [
        f"{name} in {share:.0%}"
        for name, share in zip(ACTION_NAMES, found.saturated, strict=False)
        if share > SATURATED
    ]
    if limited:
        warnings.append(
            f"Actions are saturated, exactly at their largest value: {', '.join(limited)} of the steps. A speed limit "
            "clips the demonstrations: move slower, or raise the limit of the teleoperation."
        )
    never = [one.episode_id for one in episodes if not one.closes]
    if len(never) == count:
        warnings.append("The gripper never closes in any episode: is its command recorded, and 0 closed, 1 open?")
    elif never:
        warnings.append(f"The gripper never closes in {len(never)} of {count} episodes: {_some(never)}.")
    sentences = {one.instruction for one in episodes}
    if len(sentences) == 1:
        warnings.append(
            f"There is only one instruction ({next(iter(sentences))!r}): a policy trained on this can ignore language."
        )
    short = [one.episode_id for one in episodes if one.steps < SHORT]
    if short:
        warnings.append(f"{len(short)} of {count} episodes have fewer than {SHORT} steps: {_some(short)}.")
    action = found.statistics.action
    fixed = [name for name, low, high in zip(ACTION_NAMES, action.min, action.max, strict=True) if low == high]
    if fixed:
        warnings.append(f"{', '.join(fixed)} never change: a policy cannot learn to use them.")
    for part, limit, unit in ((slice(0, 3), LARGE_STEP[0], "m"), (slice(3, 6), LARGE_STEP[1], "rad")):
        largest = float(np.abs(found.actions[:, part]).max())
        if largest > limit:
            warnings.append(
                f"One step moves by up to {largest:.2f} {unit}: did the robot jump, or are the units not {unit}?"
            )
    if action.min[6] < -1e-6 or action.max[6] > 1 + 1e-6:
        warnings.append(
            f"The gripper runs from {action.min[6]:.2f} to {action.max[6]:.2f}; not from 0 (closed) to 1 (open)."
        )
    dark = sum(float(np.std(pair[0])) < DARK for pairs in found.first_last.values() for pair in pairs)
    if dark:
        warnings.append(f"{dark} of the sampled first frames show nothing: one colour all over. Is the camera covered?")
    if sum(found.lost.values()):
        warnings.append(
            f"The recorder lost {counted(sum(found.lost.values()), 'message')} "
            f"({', '.join(f'{number} of {topic}' for topic, number in found.lost.items())}): "
            "it was too slow; give it a core, a faster disk or a larger `depth`."
        )
    if found.gaps:
        warnings.append(
            f"The video has {counted(found.gaps, 'gap')} of more than half a second: did the camera drop frames?"
        )
    if found.bad:
        bad = counted(len(found.bad), "bag or episode", "bags or episodes")
        warnings.append(f"{bad} could not be used; the reasons are listed below.")
    return warnings


def _some(names: list[str], limit: int = 3) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
