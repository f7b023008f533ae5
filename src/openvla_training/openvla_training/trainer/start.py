"""What a run begins with: a checkpoint, read or fresh, its statistics, and the frames it trains on."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import torch

from openvla_policy.checkpoint.checkpoint import Checkpoint, resolve
from openvla_policy.checkpoint.folder import load_folder
from openvla_policy.checkpoint.tokenizer_training import train_tokenizer
from openvla_policy.contract.image import ImagePreparation
from openvla_policy.contract.prompt import build_prompt
from openvla_policy.contract.statistics import Statistics, compute
from openvla_policy.model import config as shapes
from openvla_policy.model.vla import OpenVLA
from openvla_policy.runtime.precision import compute_dtype, placer
from openvla_training.trainer.config import TrainConfig
from openvla_training.trainer.data.frames import Frames, choose, load_frames
from openvla_training.trainer.objective import order_action_tokens
from openvla_training.trainer.parallel import World
from openvla_training.trainer.strategies import STRATEGIES

log = logging.getLogger(__name__)
GRIPPER_UNTOUCHED = (True,) * 6 + (False,)


def prepare(config: TrainConfig, device: torch.device, world: World) -> tuple[Checkpoint, Frames | None]:
    """The checkpoint to train (read, or fresh with its own tokenizer) with statistics, and the training frames.

    Of a mixture there are no frames, and its statistics are its source's matter.

    Raises:
        ValueError: the data cannot be trained on, or the checkpoint's tokenizer is not its model's.
    """
    cache = Path(config.output) / "frames"
    if config.checkpoint is None:
        shape = shapes.tiny(vocab_size=config.vocabulary + 256, **config.model)
        preparation = ImagePreparation.standard(shape.image_size, ["imagenet", "half"] if shape.fused else ["half"])
        with world.one_first():
            frames = choose(
                load_frames(config.data, "train", preparation, cache), config.sentences, config.demonstrations
            )
        tokenizer = train_tokenizer([build_prompt(text) for text in frames.instructions], config.vocabulary + 256)
        statistics = {config.dataset_name: _statistics(frames, config)}
        checkpoint = Checkpoint(OpenVLA(shape).to(device), shape, tokenizer, preparation, statistics)
        if config.ordinal_tokens:
            order_action_tokens(checkpoint)
        return checkpoint, frames
    if STRATEGIES[config.strategy].adapter and any((resolve(config.checkpoint) / "checkpoints").glob("*.pt")):
        raise ValueError(
            f"checkpoint: {config.checkpoint} is a run directory of Prismatic's, into which no adapter can be merged; "
            "convert it first (docs/reference/checkpoints.md), or train another strategy"
        )
    if STRATEGIES[config.strategy].quantised:
        place = placer("int4", device, trainable_inputs=True)
        checkpoint = load_folder(config.checkpoint, compute_dtype("int4", device), device, place=place)
    else:
        checkpoint = load_folder(config.checkpoint, device=device)
    check_tokenizer(checkpoint)
    if config.mixture is not None:
        return checkpoint, None
    with world.one_first():
        frames = choose(
            load_frames(config.data, "train", checkpoint.preparation, cache), config.sentences, config.demonstrations
        )
    if config.dataset_name not in checkpoint.statistics:
        checkpoint.statistics[config.dataset_name] = _statistics(frames, config)
    elif world.first:
        log.info("actions are normalised by the checkpoint's own statistics of %r", config.dataset_name)
    return checkpoint, frames


def _statistics(frames: Frames, config: TrainConfig) -> Statistics:
    if not np.isfinite(frames.actions).all():
        bad = int(frames.episode[np.flatnonzero(~np.isfinite(frames.actions).all(1))[0]])
        raise ValueError(
            f"data: {', '.join(config.data)}: no statistics can be made, since episode {bad} of `train` has an action "
            "that is not a finite number; openvla-inspect-data shows it; convert the recordings without it"
        )
    return compute(frames.trajectories(), mask=GRIPPER_UNTOUCHED)


def check_tokenizer(checkpoint: Checkpoint) -> None:
    """That text has no token where actions have theirs, nor any beyond the model's embeddings.

    Raises:
        ValueError: it has; the tokenizer is another model's.
    """
    words, actions = checkpoint.tokenizer.vocab_size, checkpoint.action_tokenizer
    rows = checkpoint.config.text.vocab_size
    prompt = checkpoint.tokenizer.encode_prompt(build_prompt("move"))
    if words > rows or words < actions.first_id or max(prompt) >= actions.first_id:
        raise ValueError(
            f"checkpoint {checkpoint.path}: its tokenizer has {words} tokens, its model {rows} of which actions are "
            f"{actions.first_id} to {actions.last_id}: they do not belong together. Copy tokenizer.json, "
            "tokenizer_config.json and special_tokens_map.json from the folder that the weights came from"
        )
