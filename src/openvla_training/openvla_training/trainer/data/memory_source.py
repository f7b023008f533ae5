"""Training batches from datasets of this machine, flattened to memory-mapped frames."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from openvla_policy.checkpoint.checkpoint import Checkpoint
from openvla_training.rlds.reader import count_episodes
from openvla_training.trainer.config import DataConfig
from openvla_training.trainer.data.batch import Batch, FrameBatches, ValidationBatch, slice_batch
from openvla_training.trainer.data.frames import Frames, load_frames
from openvla_training.trainer.data.source import VALIDATION_BATCH, VALIDATION_SAMPLES
from openvla_training.trainer.parallel import World

log = logging.getLogger(__name__)


class MemorySource:
    """Draws every sample once per epoch. Implements `Source`."""

    def __init__(
        self,
        frames: Frames,
        checkpoint: Checkpoint,
        config: DataConfig,
        *,
        seed: int,
        cache: Path,
        world: World,
        state: Mapping[str, Any],
    ) -> None:
        self.frames, self._checkpoint, self._config = frames, checkpoint, config
        self._cache, self._world = cache, world
        self._share = world.divide(config.batch_size, "data.batch_size")
        self._batches = FrameBatches(
            frames, checkpoint, config.dataset_name, config.batch_size, seed=seed, augment=config.augment
        )
        self._step = int(state.get("step", 0))
        self._validation_frames: Frames | None = None
        self.steps_per_epoch = len(frames) / config.batch_size
        self.about = f"{len(frames)} steps of {', '.join(config.datasets)}, batch_size {config.batch_size}"

    def next(self) -> Batch:
        # Drawn and augmented as a whole before it is divided: samples do not depend on the number of processes.
        batch = self._batches.at(self._step)
        self._step += 1
        return slice_batch(batch, slice(self._world.rank * self._share, (self._world.rank + 1) * self._share))

    def names(self, batch: Batch) -> tuple[str, ...]:
        return (self._config.dataset_name,) * len(batch.images)

    def state(self) -> dict[str, Any]:
        return {"step": self._step}

    def validation(self) -> list[ValidationBatch]:
        """Up to 512 evenly spaced samples of the split `val`, or of the training samples where that is missing."""
        if self._validation_frames is None:
            self._validation_frames = self._load_validation()
        frames, name = self._validation_frames, self._config.dataset_name
        count = min(len(frames), VALIDATION_SAMPLES)
        batches = FrameBatches(frames, self._checkpoint, name, count, seed=0, augment=None)
        chosen = np.linspace(0, len(frames) - 1, count).astype(np.int64)
        parts = np.array_split(chosen, max(1, count // VALIDATION_BATCH))
        return [ValidationBatch(batches.collate(part), frames.actions[part], (name,) * len(part)) for part in parts]

    def _load_validation(self) -> Frames:
        datasets = [dataset for dataset in self._config.datasets if "val" in count_episodes(dataset)]
        if not datasets:
            names = ", ".join(self._config.datasets)
            log.warning("no validation split in %s: validating on training samples", names)
            return self.frames
        with self._world.main_process_first():
            frames = load_frames(datasets, "val", self._checkpoint.preparation, self._cache)
        return frames.subset(self._config.sentences)

    def close(self) -> None:
        """Do nothing: no threads run."""
