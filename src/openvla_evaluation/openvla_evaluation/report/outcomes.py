"""Outcomes of a series of episodes: success rate, latencies, and the table of instructed by lifted object.

Pure functions of the records; `pictures` draws them, openvla_ros/evaluation runs the episodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from openvla_evaluation.statistics import Rate, spread

SUCCESS = "success"  # the named object was lifted, and no other
WRONG = "wrong object"  # exactly one other object was lifted
SEVERAL = "several"  # more than one was lifted
NOTHING = "nothing lifted"  # steps or time ran out
FAULT = "fault"  # the stack failed: says nothing about the policy, counts as not successful
INTERRUPTED = "interrupted"  # stopped by a person: not counted

NONE_COLUMN, SEVERAL_COLUMN = "none", "several"


@dataclass(frozen=True)
class Step:
    """One prediction, the camera image it was made from, and the images taken while it was executed."""

    images: tuple[np.ndarray, ...]  # uint8 RGB (H, W, 3); the first is the one the prediction was made from
    action: np.ndarray  # (7,): dx dy dz [m], droll dpitch dyaw [rad], gripper [0 closed .. 1 open]
    latency: float  # from image received to chunk published, as the policy node measured it [s, wall clock]
    rate: float  # of executed actions, over the last few of them [Hz, wall clock]

    @property
    def image(self) -> np.ndarray:
        """The image the prediction was made from."""
        return self.images[0]


@dataclass(frozen=True)
class Episode:
    """One judged episode; `steps` is empty where no frames are kept."""

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
        """Copy the episode with only `images` images, evenly spaced, which a long evaluation can keep in memory."""
        every = [(step, image) for step in self.steps for image in step.images]
        chosen = [every[round(position)] for position in np.linspace(0, len(every) - 1, images)] if every else []
        return replace(self, steps=tuple(replace(step, images=(image,)) for step, image in chosen))

    @property
    def counted(self) -> bool:
        """Whether the episode enters the success rate."""
        return self.outcome != INTERRUPTED

    @property
    def rate(self) -> float:
        """Mean rate of executed actions over the episode [Hz, wall clock]."""
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
    """Judge an episode that ended without a fault.

    Args:
        target: The object that the instruction names.
        lifted: The objects that were lifted.

    Returns:
        `SUCCESS`, `WRONG`, `SEVERAL` or `NOTHING`.
    """
    if not lifted:
        return NOTHING
    if len(lifted) > 1:
        return SEVERAL
    return SUCCESS if lifted[0] == target else WRONG


def success_rate(episodes: Sequence[Episode]) -> Rate:
    """Share of successes among the episodes that count: all but those that a person interrupted."""
    counted = [episode for episode in episodes if episode.counted]
    return Rate(sum(episode.outcome == SUCCESS for episode in counted), len(counted))


@dataclass(frozen=True)
class Confusion:
    """Counts of instructed (rows) by lifted (columns: the objects, then none, then several)."""

    objects: tuple[str, ...]
    counts: np.ndarray  # int (objects, objects + 2)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns: the objects, none, several."""
        return (*self.objects, NONE_COLUMN, SEVERAL_COLUMN)

    @property
    def grounded(self) -> Rate:
        """Share of episodes in which the named object, and no other, was lifted."""
        return Rate(int(np.trace(self.counts[:, : len(self.objects)])), int(self.counts.sum()))

    def to_json(self) -> dict[str, Any]:
        """Counts by row and column, as summary.json holds them."""
        rows = {
            name: dict(zip(self.columns, map(int, row), strict=True))
            for name, row in zip(self.objects, self.counts, strict=True)
        }
        return {"instructed": rows, "named_object_lifted": self.grounded.to_json()}

    def __str__(self) -> str:
        head = "instructed".ljust(14) + "".join(f"{name:>9}" for name in self.columns)
        rows = [
            name.ljust(14) + "".join(f"{count:>9}" for count in row)
            for name, row in zip(self.objects, self.counts, strict=True)
        ]
        return "\n".join([head, *rows, f"named object lifted: {self.grounded}"])


def confusion(episodes: Sequence[Episode], objects: Sequence[str]) -> Confusion:
    """Count instructed by lifted object, for the paired language test.

    Args:
        episodes: The episodes; those that do not count are left out.
        objects: Names of the objects, in the order of rows and columns.

    Returns:
        The table.
    """
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
    """Compute the part of summary.json that follows from the episodes alone.

    Args:
        episodes: The judged episodes.
        objects: Names of the objects, for the table.
        paired: Whether the episodes are paired trials; then the table of instructed by lifted object is included.

    Returns:
        Rates, outcomes, latencies [s], steps, and one entry an episode.
    """
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
