"""Builds the source of a run's batches from the data configuration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from openvla_policy.checkpoint.checkpoint import Checkpoint
from openvla_training.openx.mixture import load_mixture
from openvla_training.trainer.config import DataConfig, ScheduleConfig
from openvla_training.trainer.data.frames import Frames
from openvla_training.trainer.data.memory_source import MemorySource
from openvla_training.trainer.data.mixture_source import MixtureSource
from openvla_training.trainer.data.source import Source
from openvla_training.trainer.parallel import World


def open_source(
    config: DataConfig,
    schedule: ScheduleConfig,
    checkpoint: Checkpoint,
    frames: Frames | None,
    *,
    seed: int,
    cache: Path,
    world: World,
    state: Mapping[str, Any],
) -> Source:
    """Open the training frames, or the mixture that the configuration names.

    Args:
        config: The datasets and how they are sampled.
        schedule: Length of the run: a mixture may change with it.
        checkpoint: Tokenizer, image preparation and statistics. A mixture adds its statistics to it.
        frames: The training frames; None: a mixture.
        seed: Of sample order and augmentation.
        cache: Folder of flattened frames.
        world: The processes that share each batch.
        state: Position to continue from: {} or the value of an earlier `state()`.

    Returns:
        The source of this process.
    """
    if frames is not None:
        return MemorySource(frames, checkpoint, config, seed=seed, cache=cache, world=world, state=state)
    mixture = load_mixture(str(config.mixture))
    return MixtureSource(mixture, checkpoint, config, schedule, seed=seed, world=world, state=state)
