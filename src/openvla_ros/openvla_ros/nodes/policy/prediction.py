"""One prediction: the job of the inference thread and its result."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from openvla_policy.contract.camera import to_rgb
from openvla_policy.contract.observation import Observation
from openvla_ros.nodes.common import conversions


@dataclass(frozen=True)
class Job:
    """What to predict from.

    Attributes:
        image: Image message.
        received: When it was received [s, `time.perf_counter`].
        instruction: Sentence to follow.
        ready_ns: READY of the bridge that the prediction answers [ns].
        episode: Counts the instructions; a prediction of an earlier one is dropped.
        first: Whether it is the first prediction of its instruction, before which the policy is reset.
    """

    image: Any
    received: float
    instruction: str
    ready_ns: int
    episode: int
    first: bool


@dataclass(frozen=True)
class Prediction:
    """What the policy answered, and the time it took.

    Attributes:
        chunk: The policy's chunk of actions.
        preparation: Preparation of image and prompt [s].
        inference: The model [s].
    """

    chunk: Any
    preparation: float
    inference: float


def predict(policy: Any, job: Job) -> Prediction:
    """Prepare the image and predict.

    Args:
        policy: The policy.
        job: What to predict from.

    Returns:
        The prediction.
    """
    started = time.perf_counter()
    if job.first:
        policy.reset()
    picture = to_rgb(job.image)
    converted = time.perf_counter() - started
    stamp = conversions.stamp_ns(job.image.header.stamp) * 1e-9
    chunk = policy.predict(Observation(image=picture, stamp=stamp), job.instruction)
    timings = chunk.timings
    return Prediction(chunk, converted + float(timings.get("preparation", 0.0)), float(timings.get("inference", 0.0)))
