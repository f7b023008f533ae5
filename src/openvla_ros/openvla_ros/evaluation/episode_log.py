"""What a session heard since the last reset, and how it becomes the steps of an episode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from openvla_msgs.msg import ActionChunk, PolicyStatus, SafetyState, SceneScore
from sensor_msgs.msg import Image

from openvla_evaluation.report.outcomes import Step
from openvla_ros.nodes.common.action_messages import SAFETY_NAMES

# Camera clock between two kept images [s]; an image that an action was predicted from is always kept.
FRAME_SPACING = 0.1


@dataclass
class Heard:
    """What arrived since the last reset was asked for; guarded by the session's condition."""

    chunks: list[ActionChunk] = field(default_factory=list)
    arrivals: list[float] = field(default_factory=list)
    images: list[Image] = field(default_factory=list)
    score: SceneScore | None = None
    lifted: set[str] = field(default_factory=set)  # what has been up at any time: a cube let fall again counts
    safety: SafetyState | None = None
    status: PolicyStatus | None = None
    refused_before: int = 0

    def copy(self) -> Heard:
        """As it is now: what arrives later is not in it."""
        lists = {"chunks": list(self.chunks), "arrivals": list(self.arrivals), "images": list(self.images)}
        return replace(self, lifted=set(self.lifted), **lists)  # type: ignore[arg-type]

    def newest_step(self) -> Step:
        """The newest prediction with the newest image; without one when images are not kept."""
        return _make_step(self.chunks[-1], self.arrivals[-6:], self.images[-1:])

    def steps(self) -> tuple[Step, ...]:
        """Every prediction whose image was received, with the images that followed it at FRAME_SPACING."""
        starts = [_seconds(chunk.observation_stamp) for chunk in self.chunks]
        made, kept = [], 0.0
        for index, chunk in enumerate(self.chunks):
            until = starts[index + 1] if index + 1 < len(starts) else float("inf")
            mine: list[Image] = []
            for image in (i for i in self.images if starts[index] <= _seconds(i.header.stamp) < until):
                if _seen_by(chunk, image) or _seconds(image.header.stamp) - kept >= FRAME_SPACING - 1e-6:
                    mine.append(image)
                    kept = _seconds(image.header.stamp)
            if mine and _seen_by(chunk, mine[0]):
                made.append(_make_step(chunk, self.arrivals[max(0, index - 5) : index + 1], mine))
        return tuple(made)

    def last_words(self, policy: bool) -> str:
        """The newest reasons that the bridge and the policy gave, for error messages."""
        safety, status = self.safety, self.status
        words = [
            f"safety/state: {SAFETY_NAMES.get(safety.state, safety.state)} {safety.reason}".rstrip()
            if safety
            else "safety/state was never heard"
        ]
        if policy:
            words.append(
                f"policy/status: {status.state} {status.reason}".rstrip() if status else "policy/status was never heard"
            )
        return "; ".join(words)


def key(stamp: Any) -> tuple[int, int]:
    """A stamp as something that can be compared."""
    return (stamp.sec, stamp.nanosec)


def lifted_names(score: SceneScore) -> tuple[str, ...]:
    """Names of the objects that are up."""
    return tuple(name for name, up in zip(score.objects, score.lifted, strict=True) if up)


def _seconds(stamp: Any) -> float:
    return float(stamp.sec + 1e-9 * stamp.nanosec)


def _seen_by(chunk: ActionChunk, image: Image) -> bool:
    return key(image.header.stamp) == key(chunk.observation_stamp)


def _make_step(chunk: ActionChunk, arrivals: Sequence[float], images: Sequence[Image]) -> Step:
    rate = (len(arrivals) - 1) / (arrivals[-1] - arrivals[0]) if len(arrivals) > 1 else 0.0
    first = chunk.actions[0]
    t, r = first.translation, first.rotation
    action = np.array([t.x, t.y, t.z, r.x, r.y, r.z, first.gripper])
    return Step(tuple(_pixels(image) for image in images), action, chunk.latency_total, rate)


def _pixels(image: Image) -> np.ndarray:
    """The simulator's rgb8 image as uint8 (H, W, 3)."""
    rows = np.frombuffer(image.data, np.uint8).reshape(image.height, image.step)
    return rows[:, : image.width * 3].reshape(image.height, image.width, 3)
