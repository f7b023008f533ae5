"""The messages of one episode, and the steps they make up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from openvla_msgs.msg import ActionChunk, PolicyStatus, SafetyState, SceneScore
from sensor_msgs.msg import Image

from openvla_evaluation.report.outcomes import Step
from openvla_ros.nodes.common.action_messages import SAFETY_NAMES

# Least time between two kept images [s, camera stamps]; an image that an action was predicted from is always kept.
FRAME_SPACING = 0.1
RATE_WINDOW = 6  # actions over which a step's rate is measured

Stamp = tuple[int, int]  # seconds, nanoseconds


@dataclass
class EpisodeLog:
    """Messages received since the last reset was requested. Not thread-safe: StackClient's condition guards it."""

    chunks: list[ActionChunk] = field(default_factory=list)
    arrivals: list[float] = field(default_factory=list)  # of each chunk [s, monotonic clock]
    images: list[Image] = field(default_factory=list)
    score: SceneScore | None = None
    lifted: set[str] = field(default_factory=set)  # lifted at any time, even if dropped again
    safety: SafetyState | None = None
    status: PolicyStatus | None = None
    refused_before: int = 0  # chunks that the gate had refused before this log began

    def restarted(self) -> EpisodeLog:
        """An empty log that keeps the latest safety state and policy status."""
        refused = self.safety.refused_count if self.safety else 0
        return EpisodeLog(safety=self.safety, status=self.status, refused_before=refused)

    def discard_before(self, stamp: Stamp) -> None:
        """Drop chunks and images stamped earlier than `stamp`, and everything lifted so far."""
        kept = [chunk for chunk in self.chunks if stamp_key(chunk.observation_stamp) >= stamp]
        self.arrivals = self.arrivals[len(self.chunks) - len(kept) :]
        self.chunks = kept
        self.images = [image for image in self.images if stamp_key(image.header.stamp) >= stamp]
        self.lifted.clear()

    def copy(self) -> EpisodeLog:
        """A snapshot that later messages do not change."""
        lists = {"chunks": list(self.chunks), "arrivals": list(self.arrivals), "images": list(self.images)}
        return replace(self, lifted=set(self.lifted), **lists)  # type: ignore[arg-type]

    @property
    def refused(self) -> int:
        """Chunks that the safety gate refused in this episode."""
        return self.safety.refused_count - self.refused_before if self.safety else 0

    def newest_step(self) -> Step:
        """The newest prediction with the newest image, or without one when images are not subscribed to."""
        return _make_step(self.chunks[-1], self.arrivals[-RATE_WINDOW:], self.images[-1:])

    def steps(self) -> tuple[Step, ...]:
        """Every prediction whose image was received, with the images that followed it at FRAME_SPACING."""
        starts = [_seconds(chunk.observation_stamp) for chunk in self.chunks]
        steps, last_kept = [], 0.0
        for index, chunk in enumerate(self.chunks):
            until = starts[index + 1] if index + 1 < len(starts) else float("inf")
            images: list[Image] = []
            for image in (i for i in self.images if starts[index] <= _seconds(i.header.stamp) < until):
                if _predicted_from(chunk, image) or _seconds(image.header.stamp) - last_kept >= FRAME_SPACING - 1e-6:
                    images.append(image)
                    last_kept = _seconds(image.header.stamp)
            if images and _predicted_from(chunk, images[0]):
                arrivals = self.arrivals[max(0, index + 1 - RATE_WINDOW) : index + 1]
                steps.append(_make_step(chunk, arrivals, images))
        return tuple(steps)

    def state_text(self, policy: bool) -> str:
        """The latest states and reasons of the bridge and, with `policy`, of the policy, for error messages."""
        safety, status = self.safety, self.status
        states = [
            f"safety/state: {SAFETY_NAMES.get(safety.state, safety.state)} {safety.reason}".rstrip()
            if safety
            else "nothing was received on safety/state"
        ]
        if policy:
            states.append(
                f"policy/status: {status.state} {status.reason}".rstrip()
                if status
                else "nothing was received on policy/status"
            )
        return "; ".join(states)


def stamp_key(stamp: Any) -> Stamp:
    """A message's stamp as a tuple that can be compared."""
    return (stamp.sec, stamp.nanosec)


def lifted_names(score: SceneScore) -> tuple[str, ...]:
    """Names of the objects that a score reports as lifted."""
    return tuple(name for name, up in zip(score.objects, score.lifted, strict=True) if up)


def _seconds(stamp: Any) -> float:
    return float(stamp.sec + 1e-9 * stamp.nanosec)


def _predicted_from(chunk: ActionChunk, image: Image) -> bool:
    return stamp_key(image.header.stamp) == stamp_key(chunk.observation_stamp)


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
