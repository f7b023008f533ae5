"""Training batches streamed from a mixture of RLDS datasets."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from openvla_policy.checkpoint.checkpoint import Checkpoint
from openvla_policy.contract.statistics import Statistics
from openvla_training.openx.mixture import Mixture
from openvla_training.openx.source import dataset_folder
from openvla_training.openx.statistics import dataset_statistics
from openvla_training.trainer.config import DataConfig, ScheduleConfig
from openvla_training.trainer.data.batch import Batch, ValidationBatch, unnormalise_actions
from openvla_training.trainer.data.loader import Loader, LoaderConfig, merge_states
from openvla_training.trainer.data.source import VALIDATION_BATCH, VALIDATION_SAMPLES
from openvla_training.trainer.parallel import World


class MixtureSource:
    """Streams a weighted mixture of datasets too large for memory. Implements `Source`.

    The statistics of its datasets are added to the checkpoint's.
    """

    def __init__(
        self,
        mixture: Mixture,
        checkpoint: Checkpoint,
        config: DataConfig,
        schedule: ScheduleConfig,
        *,
        seed: int,
        world: World,
        state: Mapping[str, Any],
    ) -> None:
        with world.main_process_first():
            measured = _measure(mixture, str(config.data_dir))
        transitions = {name: entry.num_transitions for name, entry in measured.items()}
        self.steps_per_epoch = mixture.epoch_samples(transitions) / config.batch_size
        self._mixture, self._checkpoint, self._config = mixture, checkpoint, config
        self._statistics, self._seed, self._world = measured, seed, world
        self._steps = schedule.resolved(self.steps_per_epoch).steps
        checkpoint.statistics.update(measured)
        self._loader = self._open("train", state or None)
        self._validation: list[ValidationBatch] | None = None
        self.about = f"{sum(transitions.values())} steps of mixture {mixture.name}, batch_size {config.batch_size}"

    def _open(self, split: str, state: Mapping[str, Any] | None = None) -> Loader:
        config, training = self._config, split == "train"
        settings = LoaderConfig(
            batch_size=config.batch_size if training else VALIDATION_BATCH,
            seed=self._seed,
            lanes=config.lanes if training else 1,
            steps=self._steps,
            buffer_bytes=(config.shuffle_mib if training else 8) << 20,
            wording=config.wording if training else "first",
            split=split,
        )
        world = self._world if training else World()
        return Loader(
            self._mixture, str(config.data_dir), self._checkpoint, settings,
            augment=config.augment if training else None, rank=world.rank, world=world.size,
            workers=config.decoders if training else 0, statistics=self._statistics, state=state,
        )  # fmt: skip

    def next(self) -> Batch:
        return next(self._loader)

    def names(self, batch: Batch) -> tuple[str, ...]:
        return tuple(dataset for dataset, _episode, _step in batch.origins)

    def state(self) -> dict[str, Any]:
        return merge_states(self._world.gather(self._loader.state()))

    def validation(self) -> list[ValidationBatch]:
        """512 samples of the split `val`, or of the end of `train` that is kept for it, drawn as in training."""
        if self._validation is None:
            with self._open("val") as loader:
                batches = itertools.islice(loader, VALIDATION_SAMPLES // VALIDATION_BATCH)
                self._validation = [self._with_true_actions(batch) for batch in batches]
        return self._validation

    def _with_true_actions(self, batch: Batch) -> ValidationBatch:
        assert batch.actions is not None
        names = self.names(batch)
        return ValidationBatch(batch, unnormalise_actions(self._checkpoint, batch.actions[:, 0].numpy(), names), names)

    def close(self) -> None:
        self._loader.close()


def _measure(mixture: Mixture, data_dir: str) -> dict[str, Statistics]:
    rows = {name: mixture.row(name) for name in mixture.datasets}
    return {name: dataset_statistics(row, dataset_folder(data_dir, name, row.folder)) for name, row in rows.items()}
