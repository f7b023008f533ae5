"""Training batches from flat frames that fit on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from openvla_policy.checkpoint.checkpoint import Checkpoint
from openvla_training.rlds.reader import count_episodes
from openvla_training.trainer.config import TrainConfig
from openvla_training.trainer.data.batch import Batch, Batches, HeldOut, rows_of
from openvla_training.trainer.data.frames import Frames, choose, load_frames
from openvla_training.trainer.data.source import held_out_of, log
from openvla_training.trainer.parallel import World


class FrameSource:
    """Every sample once an epoch, from RLDS datasets flattened to files."""

    def __init__(
        self, frames: Frames, checkpoint: Checkpoint, config: TrainConfig, world: World, state: Mapping[str, Any]
    ) -> None:
        """`state`: {} or what `state()` gave."""
        world.divide(config.batch_size, "batch_size")
        self.frames, self._checkpoint, self._config, self._world = frames, checkpoint, config, world
        self._batches = Batches(frames, checkpoint, config.dataset_name, config.batch_size, config.seed, config.augment)
        self._step = int(state.get("step", 0))
        self._held_out: Frames | None = None
        self.length = len(frames) / config.batch_size
        self.about = f"{len(frames)} steps of {', '.join(config.data)}, batch_size {config.batch_size}"

    def next(self) -> Batch:
        """Drawn and augmented whole, so that samples do not depend on the number of processes; then divided."""
        batch = self._batches.at(self._step)
        self._step += 1
        each = self._config.batch_size // self._world.size
        return rows_of(batch, slice(self._world.rank * each, (self._world.rank + 1) * each))

    def names(self, batch: Batch) -> tuple[str, ...]:
        """One for all."""
        return (self._config.dataset_name,) * len(batch.images)

    def state(self) -> dict[str, Any]:
        return {"step": self._step}

    def held_out(self) -> list[HeldOut]:
        """Up to 512 samples of the split `val`, evenly spread; of the training samples where there is none."""
        if self._held_out is None:
            split = [data for data in self._config.data if "val" in count_episodes(data)]
            if split:
                cache = Path(self._config.output) / "frames"
                with self._world.one_first():
                    all_of_them = load_frames(split, "val", self._checkpoint.preparation, cache)
                    self._held_out = choose(all_of_them, self._config.sentences)
            else:
                log.warning("no validation split in %s: validating on training samples", ", ".join(self._config.data))
                self._held_out = self.frames
        return held_out_of(self._held_out, self._checkpoint, self._config.dataset_name)

    def close(self) -> None:
        """Nothing runs beside."""
