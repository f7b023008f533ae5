"""What the trainer draws batches from."""

from __future__ import annotations

import logging
from typing import Any, Protocol

import numpy as np

from openvla_policy.checkpoint.checkpoint import Checkpoint
from openvla_training.trainer.data.batch import Batch, Batches, HeldOut
from openvla_training.trainer.data.frames import Frames

log = logging.getLogger(__name__)


HELD_OUT = 512  # samples of a validation


ROWS = 64  # of one of its batches


class Source(Protocol):
    """The trainer's view of its data. `about`: what must not change for a run to go on; `length`: steps an epoch."""

    about: str
    length: float

    def next(self) -> Batch:
        """The next step's batch, or this process's part of it."""

    def names(self, batch: Batch) -> tuple[str, ...]:
        """Of each sample of a batch the name of its statistics."""

    def state(self) -> dict[str, Any]:
        """Where all processes together are; to be called by all of them."""

    def held_out(self) -> list[HeldOut]:
        """Samples to validate on, the same at every call."""

    def close(self) -> None:
        """Stop what runs beside."""


def held_out_of(frames: Frames, checkpoint: Checkpoint, dataset_name: str) -> list[HeldOut]:
    """Up to 512 evenly spread samples of `frames` in batches."""
    count = min(len(frames), HELD_OUT)
    batches = Batches(frames, checkpoint, dataset_name, count, 0, None)
    chosen = np.linspace(0, len(frames) - 1, count).astype(np.int64)
    parts = np.array_split(chosen, max(1, count // ROWS))
    return [HeldOut(batches.collate(part), frames.actions[part], (dataset_name,) * len(part)) for part in parts]
