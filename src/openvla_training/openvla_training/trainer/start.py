"""What a run starts with: the checkpoint to train, its statistics, and the training frames."""

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
from openvla_training.trainer.config import DataConfig, ModelConfig
from openvla_training.trainer.data.frames import Frames, load_frames
from openvla_training.trainer.objective import order_action_tokens
from openvla_training.trainer.parallel import World
from openvla_training.trainer.strategies import STRATEGIES

log = logging.getLogger(__name__)
GRIPPER_NOT_NORMALISED = (True,) * 6 + (False,)


def start(
    model: ModelConfig, data: DataConfig, cache: Path, device: torch.device, world: World
) -> tuple[Checkpoint, Frames | None]:
    """Load a checkpoint, or make a random one with its own tokenizer, and the frames to train it on.

    Args:
        model: Which checkpoint, or which shape.
        data: The datasets.
        cache: Folder of flattened frames.
        device: Device of this process.
        world: The processes of the run.

    Returns:
        The checkpoint, with the statistics of the datasets, and the frames. Of a mixture there are no frames; its
        source adds the statistics.

    Raises:
        ValueError: The data cannot be trained on, or the checkpoint's tokenizer does not belong to its model.
    """
    if model.checkpoint is None:
        shape = shapes.tiny(vocab_size=model.vocabulary + 256, **model.shape)
        preparation = ImagePreparation.standard(shape.image_size, ["imagenet", "half"] if shape.fused else ["half"])
        frames = _frames(data, preparation, cache, world)
        tokenizer = train_tokenizer([build_prompt(text) for text in frames.instructions], model.vocabulary + 256)
        statistics = {data.dataset_name: _statistics(frames, data)}
        checkpoint = Checkpoint(OpenVLA(shape).to(device), shape, tokenizer, preparation, statistics)
        if model.ordinal_tokens:
            order_action_tokens(checkpoint)
        return checkpoint, frames
    checkpoint = _load(model.checkpoint, model.strategy, device)
    check_tokenizer(checkpoint)
    if data.mixture is not None:
        return checkpoint, None
    frames = _frames(data, checkpoint.preparation, cache, world)
    if data.dataset_name not in checkpoint.statistics:
        checkpoint.statistics[data.dataset_name] = _statistics(frames, data)
    elif world.is_main:
        log.info("actions are normalised by the checkpoint's own statistics of %r", data.dataset_name)
    return checkpoint, frames


def _load(path: str, strategy: str, device: torch.device) -> Checkpoint:
    if STRATEGIES[strategy].adapter and any((resolve(path) / "checkpoints").glob("*.pt")):
        raise ValueError(
            f"model.checkpoint: {path} is a Prismatic run directory, into which no adapter can be merged; convert it "
            "first (docs/reference/checkpoints.md), or use another strategy"
        )
    if STRATEGIES[strategy].quantised:
        place = placer("int4", device, trainable_inputs=True)
        return load_folder(path, compute_dtype("int4", device), device, place=place)
    return load_folder(path, device=device)


def _frames(data: DataConfig, preparation: ImagePreparation, cache: Path, world: World) -> Frames:
    with world.main_process_first():
        frames = load_frames(data.datasets, "train", preparation, cache)
    return frames.subset(data.sentences, data.demonstrations)


def _statistics(frames: Frames, data: DataConfig) -> Statistics:
    if not np.isfinite(frames.actions).all():
        bad = int(frames.episode[np.flatnonzero(~np.isfinite(frames.actions).all(1))[0]])
        raise ValueError(
            f"data.datasets: {', '.join(data.datasets)}: cannot compute statistics, since episode {bad} of `train` has "
            "an action that is not finite; openvla-inspect-data lists such actions; convert the recordings without it"
        )
    return compute(frames.trajectories(), mask=GRIPPER_NOT_NORMALISED)


def check_tokenizer(checkpoint: Checkpoint) -> None:
    """Make sure that text tokens lie below the action tokens and within the model's embeddings.

    Args:
        checkpoint: A loaded checkpoint.

    Raises:
        ValueError: They do not; the tokenizer belongs to another model.
    """
    words, actions = checkpoint.tokenizer.vocab_size, checkpoint.action_tokenizer
    rows = checkpoint.config.text.vocab_size
    prompt = checkpoint.tokenizer.encode_prompt(build_prompt("move"))
    if words > rows or words < actions.first_id or max(prompt) >= actions.first_id:
        raise ValueError(
            f"checkpoint {checkpoint.path}: the tokenizer has {words} tokens; the model has {rows}, of which actions "
            f"are {actions.first_id} to {actions.last_id}. They do not belong together: copy tokenizer.json, "
            "tokenizer_config.json and special_tokens_map.json from the folder that the weights are from"
        )
