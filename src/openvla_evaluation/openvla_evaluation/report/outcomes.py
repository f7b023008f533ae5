"""What a series of episodes amounts to: outcomes, success rate, latencies, the table of who lifted what.

Pure functions of the records; the drawing is in `pictures`, the running in openvla_ros/evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from openvla_evaluation.statistics import Rate, spread

SUCCESS = "success"  # the named object was lifted, and no other
WRONG = "wrong object"  # one other object was lifted
SEVERAL = "several"  # more than one was lifted
NOTHING = "nothing lifted"  # steps or time ran out
FAULT = "fault"  # the stack failed: neither for nor against the policy, but counted as not successful
INTERRUPTED = "interrupted"  # stopped by a person: not counted

NONE_COLUMN, SEVERAL_COLUMN = "none", "several"


@dataclass(frozen=True)
class Step:
    """One prediction, the camera image it was made from, and what the camera saw while it was executed."""

    images: tuple[np.ndarray, ...]  # uint8 RGB (H, W, 3); the first is the one the prediction was made from
    action: np.ndarray  # (7,): dx dy dz [m], droll dpitch dyaw [rad], gripper [0 closed .. 1 open]
    latency: float  # image received to chunk published, as the source measured it [s, wall clock]
    rate: float  # actions executed a second, over the last few [Hz, wall clock]

    @property
    def image(self) -> np.ndarray:
        """The image the prediction was made from."""
        return self.images[0]


@dataclass(frozen=True)
class Episode:
    """One judged episode. `steps` may be empty where frames were not asked for; `count` is always right."""

    index: int
    seed: int
    instruction: str
    target: str
    outcome: str
    reason: str
    lifted: tuple[str, ...]
    count: int  # actions executed
    duration: float  # [s, wall clock]
    latencies: tuple[float, ...]  # one a prediction [s]
    inference: tuple[float, ...]  # the model's share of them [s]
    refused: int = 0  # chunks that the safety gate refused
    steps: tuple[Step, ...] = ()

    def thinned(self, images: int) -> Episode:
        """The same with only so many images, evenly spaced: what a long evaluation can keep in memory."""
        every = [(step, image) for step in self.steps for image in step.images]
        chosen = [every[round(position)] for position in np.linspace(0, len(every) - 1, images)] if every else []
        return replace(self, steps=tuple(replace(step, images=(image,)) for step, image in chosen))

    @property
    def counted(self) -> bool:
        """Whether the episode enters the success rate."""
        return self.outcome != INTERRUPTED

    @property
    def rate(self) -> float:
        """Actions a second over the whole episode [Hz, wall clock]."""
        return self.count / self.duration if self.duration > 0 else 0.0

    def to_json(self) -> dict[str, Any]:
        """The episode's entry in summary.json."""
        return {
            "episode": self.index,
            "seed": self.seed,
            "instruction": self.instruction,
            "target": self.target,
            "outcome": self.outcome,
            "reason": self.reason,
            "lifted": list(self.lifted),
            "steps": self.count,
            "refused": self.refused,
            "duration_s": round(self.duration, 3),
            "rate_hz": round(self.rate, 3),
            "latency_s": spread(self.latencies),
            "inference_s": spread(self.inference),
        }


def judge(target: str, lifted: Sequence[str]) -> str:
    """Outcome of an episode that ended in order, from the objects that were lifted in it."""
    if not lifted:
        return NOTHING
    if len(lifted) > 1:
        return SEVERAL
    return SUCCESS if lifted[0] == target else WRONG


def success_rate(episodes: Sequence[Episode]) -> Rate:
    """Successes among the episodes that count (all but those a person interrupted)."""
    counted = [episode for episode in episodes if episode.counted]
    return Rate(sum(episode.outcome == SUCCESS for episode in counted), len(counted))


@dataclass(frozen=True)
class Confusion:
    """Counts of instructed (rows) by lifted (columns: the objects, then none, then several)."""

    objects: tuple[str, ...]
    counts: np.ndarray  # int (objects, objects + 2)

    @property
    def columns(self) -> tuple[str, ...]:
        """What may have been lifted."""
        return (*self.objects, NONE_COLUMN, SEVERAL_COLUMN)

    @property
    def grounded(self) -> Rate:
        """How often the named object was the one lifted."""
        return Rate(int(np.trace(self.counts[:, : len(self.objects)])), int(self.counts.sum()))

    def to_json(self) -> dict[str, Any]:
        """For summary.json: counts by row and column."""
        rows = {
            name: dict(zip(self.columns, map(int, row), strict=True))
            for name, row in zip(self.objects, self.counts, strict=True)
        }
        return {"instructed": rows, "named_object_lifted": self.grounded.to_json()}

    def __str__(self) -> str:
        """The table for a terminal."""
        head = "told to lift".ljust(14) + "".join(f"{name:>9}" for name in self.columns)
        rows = [
            name.ljust(14) + "".join(f"{count:>9}" for count in row)
            for name, row in zip(self.objects, self.counts, strict=True)
        ]
        return "\n".join([head, *rows, f"named object lifted: {self.grounded}"])


def confusion(episodes: Sequence[Episode], objects: Sequence[str]) -> Confusion:
    """The table of the paired language test; episodes that do not count are left out."""
    counts = np.zeros((len(objects), len(objects) + 2), dtype=int)
    for episode in episodes:
        if not episode.counted:
            continue
        if not episode.lifted:
            column = len(objects)
        elif len(episode.lifted) > 1:
            column = len(objects) + 1
        else:
            column = objects.index(episode.lifted[0])
        counts[objects.index(episode.target), column] += 1
    return Confusion(tuple(objects), counts)


def summarise(episodes: Sequence[Episode], objects: Sequence[str], paired: bool) -> dict[str, Any]:
    """The part of summary.json that follows from the episodes alone."""
    counted = [episode for episode in episodes if episode.counted]
    summary: dict[str, Any] = {
        "success_rate": success_rate(episodes).to_json(),
        "outcomes": {name: sum(e.outcome == name for e in episodes) for name in sorted({e.outcome for e in episodes})},
        "latency_s": spread([value for e in counted for value in e.latencies]),
        "inference_s": spread([value for e in counted for value in e.inference]),
        "steps_to_success": spread([e.count for e in counted if e.outcome == SUCCESS]),
        "rate_hz": spread([e.rate for e in counted if e.count]),
    }
    if paired:
        summary["confusion"] = confusion(episodes, objects).to_json()
    return summary | {"episodes": [episode.to_json() for episode in episodes]}
