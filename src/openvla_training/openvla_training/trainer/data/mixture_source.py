"""Training batches streamed from a mixture of RLDS datasets."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openvla_policy.checkpoint.checkpoint import Checkpoint
from openvla_policy.contract.statistics import Statistics
from openvla_training.openx.mixture import Mixture
from openvla_training.openx.source import dataset_folder
from openvla_training.openx.statistics import dataset_statistics
from openvla_training.trainer.config import TrainConfig
from openvla_training.trainer.data.batch import Batch, HeldOut, in_robot_units
from openvla_training.trainer.data.loader import Loader, LoaderConfig, merge_states
from openvla_training.trainer.data.source import HELD_OUT, ROWS
from openvla_training.trainer.parallel import World


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
