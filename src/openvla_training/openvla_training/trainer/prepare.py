"""What a run begins with: a checkpoint, read or fresh, the frames it trains on, and the parameters it trains."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from torch import nn

from openvla_policy.checkpoint.folder import Checkpoint, load_folder
from openvla_policy.checkpoint.tokenizer import train_tokenizer
from openvla_policy.contract.image import ImagePreparation
from openvla_policy.contract.prompt import build_prompt
from openvla_policy.contract.statistics import compute
from openvla_policy.model import config as shapes
from openvla_policy.model.language import DecoderLayer
from openvla_policy.model.vision import Block
from openvla_policy.model.vla import OpenVLA
from openvla_policy.runtime.precision import compute_dtype, placer
from openvla_training.trainer.config import TrainConfig
from openvla_training.trainer.frames import Frames, load_frames
from openvla_training.trainer.objective import order_action_tokens
from openvla_training.trainer.strategies import STRATEGIES, apply_strategy

log = logging.getLogger(__name__)
GRIPPER_UNTOUCHED = (True,) * 6 + (False,)


def prepare(config: TrainConfig, device: torch.device) -> tuple[Checkpoint, Frames]:
    """The checkpoint to train (read, or fresh with its own tokenizer) with statistics, and the training frames."""
    cache = Path(config.output) / "frames"
    if config.checkpoint is not None:
        if STRATEGIES[config.strategy].quantised:
            place = placer("int4", device, trainable_inputs=True)
            checkpoint = load_folder(config.checkpoint, compute_dtype("int4", device), device, place=place)
        else:
            checkpoint = load_folder(config.checkpoint, device=device)
        frames = load_frames(config.data, "train", checkpoint.preparation, cache)
        if config.dataset_name not in checkpoint.statistics:
            checkpoint.statistics[config.dataset_name] = compute(frames.trajectories(), mask=GRIPPER_UNTOUCHED)
        return checkpoint, frames
    shape = shapes.tiny(vocab_size=config.vocabulary + 256, **config.model)
    preparation = ImagePreparation.standard(shape.image_size, ["imagenet", "half"] if shape.fused else ["half"])
    frames = load_frames(config.data, "train", preparation, cache)
    tokenizer = train_tokenizer([build_prompt(text) for text in frames.instructions], config.vocabulary + 256)
    statistics = {config.dataset_name: compute(frames.trajectories(), mask=GRIPPER_UNTOUCHED)}
    checkpoint = Checkpoint(OpenVLA(shape).to(device), shape, tokenizer, preparation, statistics)
    if config.ordinal_tokens:
        order_action_tokens(checkpoint)
    return checkpoint, frames


def ready_model(checkpoint: Checkpoint, config: TrainConfig) -> Any:
    """Choose what is trained, and how activations are kept. Returns the peft wrapper of an adapter, else None.

    Frozen matrices are held in bf16 when the products are computed in it: the same numbers, half the memory.
    """
    model, strategy = checkpoint.model, STRATEGIES[config.strategy]
    wrapper = apply_strategy(model, strategy, config.lora_rank, config.lora_alpha, config.lora_dropout)
    if config.precision == "bf16" and not strategy.quantised:
        for module in model.modules():
            if isinstance(module, nn.Linear | nn.Conv2d) and not module.weight.requires_grad:
                module.to(torch.bfloat16)
    if config.activation_checkpointing:
        recompute_activations(model)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    rank = f" r={config.lora_rank}" if strategy.adapter else ""
    log.info(
        "strategy %s%s trains %.1f M parameters (%s) of a model of %.1f M",
        strategy.name, rank, trained / 1e6, strategy.description, _size(checkpoint) / 1e6,
    )  # fmt: skip
    return wrapper


def recompute_activations(model: nn.Module) -> None:
    """Keep only each layer's input for the backward pass, which computes the rest again."""
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import apply_activation_checkpointing

    apply_activation_checkpointing(model, check_fn=lambda module: isinstance(module, DecoderLayer | Block))


def _size(checkpoint: Checkpoint) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in OpenVLA(checkpoint.config).parameters())
