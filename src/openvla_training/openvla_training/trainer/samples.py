"""Parts of batches, held-out samples, and their actions in robot units; nothing here knows how datasets are read."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from openvla_policy.checkpoint.checkpoint import Checkpoint
from openvla_training.trainer.batches import Batch


@dataclass(frozen=True)
class HeldOut:
    """A validation batch: its true actions (B, 7) in robot units, and each sample's dataset (name of statistics)."""

    batch: Batch
    actions: NDArray[np.float32]
    names: tuple[str, ...]


def in_robot_units(
    checkpoint: Checkpoint, actions: NDArray[np.floating], names: tuple[str, ...]
) -> NDArray[np.float32]:
    """Normalised actions (B, 7) in m, rad and gripper opening, each by the statistics of its dataset."""
    made = np.empty(actions.shape, np.float32)
    for name in set(names):
        rows = np.array([other == name for other in names])
        made[rows] = checkpoint.statistics[name].unnormalise(actions[rows])
    return made


def rows_of(batch: Batch, rows: slice) -> Batch:
    """Part of a batch."""
    tensors = {name: getattr(batch, name)[rows] for name in ("input_ids", "labels", "attention_mask", "images")}
    actions = None if batch.actions is None else batch.actions[rows]
    return replace(batch, **tensors, actions=actions, origins=batch.origins[rows])
