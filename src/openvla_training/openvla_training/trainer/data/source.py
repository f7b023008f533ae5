"""What the trainer draws its batches from."""

from __future__ import annotations

from typing import Any, Protocol

from openvla_training.trainer.data.batch import Batch, ValidationBatch

VALIDATION_SAMPLES = 512
VALIDATION_BATCH = 64  # samples


class Source(Protocol):
    """Training and validation batches of one process.

    Attributes:
        about: What must not change for a run to be resumed; written into its states.
        steps_per_epoch: Optimizer steps of one pass over the data.
    """

    about: str
    steps_per_epoch: float

    def next(self) -> Batch:
        """This process's part of the next step's batch."""

    def names(self, batch: Batch) -> tuple[str, ...]:
        """The dataset of each sample, which is the key of its statistics."""

    def state(self) -> dict[str, Any]:
        """The position of all processes together, for exact resume; every process must call it."""

    def validation(self) -> list[ValidationBatch]:
        """Held-out samples, the same at every call."""

    def close(self) -> None:
        """Stop background threads."""
