"""Where batches come from: frames in memory, or a mixture streamed from disk. Both go on at the exact sample."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from openvla_policy.checkpoint.checkpoint import Checkpoint
from openvla_policy.contract.statistics import Statistics
from openvla_training.openx.mixture import Mixture
from openvla_training.openx.source import dataset_folder
from openvla_training.openx.statistics import dataset_statistics
from openvla_training.rlds.reader import count_episodes
from openvla_training.trainer.batches import Batch, Batches
from openvla_training.trainer.choice import choose
from openvla_training.trainer.config import TrainConfig
from openvla_training.trainer.frames import Frames, load_frames
from openvla_training.trainer.loader import Loader, LoaderConfig, merge_states
from openvla_training.trainer.parallel import World
from openvla_training.trainer.samples import HeldOut, in_robot_units, rows_of

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


def held_out_of(frames: Frames, checkpoint: Checkpoint, dataset_name: str) -> list[HeldOut]:
    """Up to 512 evenly spread samples of `frames` in batches."""
    count = min(len(frames), HELD_OUT)
    batches = Batches(frames, checkpoint, dataset_name, count, 0, None)
    chosen = np.linspace(0, len(frames) - 1, count).astype(np.int64)
    parts = np.array_split(chosen, max(1, count // ROWS))
    return [HeldOut(batches.collate(part), frames.actions[part], (dataset_name,) * len(part)) for part in parts]


class MixtureSource:
    """A weighted mixture of datasets too large for memory. Adds its datasets' statistics to the checkpoint's."""

    def __init__(
        self, mixture: Mixture, checkpoint: Checkpoint, config: TrainConfig, world: World, state: Mapping[str, Any]
    ) -> None:
        """`state`: {} or what `state()` gave."""
        with world.one_first():
            measured = _measure(mixture, str(config.data_dir))
        transitions = {name: entry.num_transitions for name, entry in measured.items()}
        self.length = mixture.epoch_samples(transitions) / config.batch_size
        config = replace(config, steps=steps_of(config, self.length))
        self._mixture, self._checkpoint, self._config, self._world = mixture, checkpoint, config, world
        checkpoint.statistics.update(measured)
        self._loader = self._open("train", state or None)
        self._held_out: list[HeldOut] | None = None
        self.about = f"{sum(transitions.values())} steps of mixture {mixture.name}, batch_size {config.batch_size}"

    def _open(self, split: str, state: Mapping[str, Any] | None = None) -> Loader:
        config, training = self._config, split == "train"
        settings = LoaderConfig(
            batch_size=config.batch_size if training else ROWS,
            seed=config.seed,
            lanes=config.lanes if training else 1,
            steps=config.steps,
            buffer_bytes=(config.shuffle_mib if training else 8) << 20,
            wording=config.wording if training else "first",
            split=split,
        )
        world = self._world if training else World()
        return Loader(
            self._mixture, str(config.data_dir), self._checkpoint, settings,
            augment=config.augment if training else None, rank=world.rank, world=world.size,
            workers=config.decoders if training else 0, state=state,
        )  # fmt: skip

    def next(self) -> Batch:
        return next(self._loader)

    def names(self, batch: Batch) -> tuple[str, ...]:
        """Of each sample the dataset it is of."""
        return tuple(dataset for dataset, _episode, _step in batch.origins)

    def state(self) -> dict[str, Any]:
        return merge_states(self._world.gather(self._loader.state()))

    def held_out(self) -> list[HeldOut]:
        """512 samples of the split `val`, or of the end of `train` that is kept for it, drawn as in training."""
        if self._held_out is None:
            with self._open("val") as loader:
                batches = list(itertools.islice(loader, HELD_OUT // ROWS))
            self._held_out = [HeldOut(batch, self._true(batch), self.names(batch)) for batch in batches]
        return self._held_out

    def _true(self, batch: Batch) -> NDArray[np.float32]:
        assert batch.actions is not None
        return in_robot_units(self._checkpoint, batch.actions[:, 0].numpy(), self.names(batch))

    def close(self) -> None:
        self._loader.close()


def steps_of(config: TrainConfig, length: float) -> int:
    """Optimizer steps of a run whose epoch has `length` of them."""
    return max(1, round(config.epochs * length)) if config.epochs else config.steps


def _measure(mixture: Mixture, data_dir: str) -> dict[str, Statistics]:
    rows = {name: mixture.row(name) for name in mixture.datasets}
    return {name: dataset_statistics(row, dataset_folder(data_dir, name, row.folder)) for name, row in rows.items()}
